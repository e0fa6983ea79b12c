"""What holds for every object here: names, labels, and pods without rights. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atoll.deploy import yaml
from atoll.deploy.images import USER
from atoll.deploy.plan import Plan
from atoll.errors import SystemMistake

__all__ = [
    "Container",
    "Object",
    "Pod",
    "claim",
    "config",
    "digest",
    "documents",
    "host",
    "labels",
    "named",
    "selector",
    "variables",
]

Object = dict[str, Any]
_DIGITS = 10
_TMP_SIZE = "64Mi"


def host(name: str) -> str:
    """The name of a part's objects: DNS has no underscores."""
    found = name.replace("_", "-")
    if found.endswith("-"):
        raise SystemMistake(f"{name!r} can't be a name in Kubernetes", hint="a name that does not end with _")
    return found


def digest(*values: Any) -> str:
    """The same for the same values: what stands in a name, so that something else never has that name."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def labels(plan: Plan, name: str, kind: str) -> dict[str, str]:
    """`kind` is what network policies ask for."""
    return {**selector(plan, name), "app.kubernetes.io/managed-by": "atoll", "io.atoll/kind": kind}


def selector(plan: Plan, name: str) -> dict[str, str]:
    """One part's pods."""
    return {"app.kubernetes.io/name": host(name), "app.kubernetes.io/part-of": plan.system.name}


def named(version_kind: str, name: str, marked: Mapping[str, str], **rest: Any) -> Object:
    """An object of `apps/v1 Deployment`."""
    version, _, kind = version_kind.rpartition(" ")
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": dict(marked)}, **rest}


def documents(objects: Sequence[Object]) -> str:
    """One file."""
    return (
        "# Rendered by atoll; what is changed here is overwritten. Your own belongs into an overlay of your own.\n"
        + "---\n".join(map(yaml.text, objects))
    )


def variables(values: Mapping[str, str]) -> list[Object]:
    return [{"name": name, "value": value} for name, value in values.items()]


def config(name: str, marked: Mapping[str, str], values: Mapping[str, str]) -> Object:
    """Its name has a digest of what it holds: a pod that is rolled back finds what it had."""
    return named("v1 ConfigMap", f"{name}-{digest(dict(values))}", marked, immutable=True, data=dict(values))


def claim(size: str, name: str = "data") -> Object:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {"metadata": {"name": name}, "spec": spec}


@dataclass(frozen=True, slots=True)
class Container:
    """`more` is everything else that its container says: env, probes, ports."""

    name: str
    image: str
    memory_mib: int
    cpu: str = "100m"
    more: Mapping[str, Any] = field(default_factory=dict)

    def shown(self, mounts: Sequence[Object]) -> Object:
        """No rights, nothing to write to but what is mounted, bounded."""
        memory = f"{self.memory_mib}Mi"
        return {
            "name": self.name,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            **self.more,
            "resources": {"requests": {"cpu": self.cpu, "memory": memory}, "limits": {"cpu": "1", "memory": memory}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [*mounts, {"name": "tmp", "mountPath": "/tmp"}],
        }


@dataclass(frozen=True, slots=True)
class Pod:
    """`account` is its service account and, unless `secret` names another or is "", its Secret, mounted at /run/secrets.

    `volumes` are those beside secrets and /tmp, by the path at which they are mounted; one that has only a name is claimed
    elsewhere. `first` run before, one by one.
    """

    account: str
    container: Container
    first: tuple[Container, ...] = ()
    volumes: Mapping[str, Object] = field(default_factory=dict)
    secret: str | None = None
    grace_s: int = 20
    more: Mapping[str, Any] = field(default_factory=dict)

    def template(self, marked: Mapping[str, str], annotations: Mapping[str, str] | None = None) -> Object:
        noted = {"annotations": dict(annotations)} if annotations else {}
        return {"metadata": {"labels": dict(marked), **noted}, "spec": self.spec()}

    def spec(self) -> Object:
        secret = self.account if self.secret is None else self.secret
        mounts = [{"name": one["name"], "mountPath": path} for path, one in self.volumes.items()]
        mounts += [{"name": "secrets", "mountPath": "/run/secrets", "readOnly": True}] if secret else []
        begin = {"initContainers": [one.shown(mounts) for one in self.first]} if self.first else {}
        return {
            "serviceAccountName": self.account,
            "automountServiceAccountToken": False,
            # Kubernetes would tell of every Service by variables like ORDERS_PORT, and settings are variables too.
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": self.grace_s,
            "securityContext": _RESTRICTED,
            **self.more,
            **begin,
            "containers": [self.container.shown(mounts)],
            "volumes": [
                *(one for one in self.volumes.values() if len(one) > 1),
                *([{"name": "secrets", "secret": {"secretName": secret, "defaultMode": 0o440}}] if secret else []),
                {"name": "tmp", "emptyDir": {"sizeLimit": _TMP_SIZE}},
            ],
        }


_RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    # Otherwise each file of a volume is given to the group each time that a pod starts.
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
