"""Secrets from somewhere else, by the External Secrets Operator: a kustomize component for each overlay that has none. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atoll.deploy import yaml
from atoll.deploy.entrance import TLS
from atoll.deploy.kubernetes.objects import Object, documents, host, labels, named
from atoll.deploy.plan import Plan
from atoll.deploy.secrets import database_name

__all__ = ["external_secrets"]

_EVERY = "1h"
_URL = "database_url"


def external_secrets(plan: Plan, secrets: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """`secrets` are files by Secret. Nothing where no store is named."""
    if not plan.system.containers.secret_store:
        return {}
    wanted = {"production": _of_production(plan, secrets), "operators": _of_operators(plan, secrets)}
    return {
        f"components/secrets-of-{overlay}/{name}": text
        for overlay, found in wanted.items()
        for name, text in _files(plan, found).items()
    }


def _of_production(plan: Plan, secrets: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Databases are somebody else's, and so are their passwords."""
    servers = {database_name(one) for one in plan.members}
    return {name: files for name, files in secrets.items() if name not in servers}


def _of_operators(plan: Plan, secrets: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Each operator makes the URLs of its databases. That of MongoDB is told the password beforehand."""
    served = {one.name: one for one in plan.members if one.database and one.database.served}
    found: dict[str, Sequence[str]] = {
        name: [file for file in files if file != _URL or name not in served]
        for name, files in _of_production(plan, secrets).items()
    }
    kinds = {database_name(one): one.database.kind for one in served.values() if one.database}
    return found | {name: ["database_password"] for name, kind in kinds.items() if kind == "mongodb"}


def _files(plan: Plan, wanted: Mapping[str, Sequence[str]]) -> dict[str, str]:
    head = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "resources": ["external-secrets.yaml"]}
    objects = [_secret(plan, name, files) for name, files in wanted.items() if files]
    return {"kustomization.yaml": yaml.text(head), "external-secrets.yaml": documents(objects)}


def _secret(plan: Plan, name: str, files: Sequence[str]) -> Object:
    kind, _, store = plan.system.containers.secret_store.partition("/")
    place = f"{plan.system.name}/{name}"
    data = [{"secretKey": file, "remoteRef": {"key": place, "property": file}} for file in files]
    spec = {
        "refreshInterval": _EVERY,
        "secretStoreRef": {"kind": kind, "name": store},
        "target": {"name": host(name), "creationPolicy": "Owner", **_typed(name)},
        "data": data,
    }
    return named("external-secrets.io/v1 ExternalSecret", host(name), labels(plan, name, "secret"), spec=spec)


def _typed(name: str) -> Object:
    """A Secret's type never changes, and a certificate has one of its own: so somebody else can take over making it."""
    return {"template": {"type": "kubernetes.io/tls"}} if name == TLS else {}
