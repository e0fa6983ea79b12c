"""All files of a system for Kubernetes. Pure: `render(plan, told) -> {path: text}`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from atoll.deploy import observability
from atoll.deploy.entrance import TLS
from atoll.deploy.images import BUS, GATEWAY, PROVISION
from atoll.deploy.kubernetes.bus import component
from atoll.deploy.kubernetes.external import external_secrets
from atoll.deploy.kubernetes.migrations import migrates, migrating
from atoll.deploy.kubernetes.network import OWN_NAMES, policies
from atoll.deploy.kubernetes.objects import documents, host, named
from atoll.deploy.kubernetes.overlays import databases, kustomization, overlays
from atoll.deploy.kubernetes.podman import podman
from atoll.deploy.kubernetes.provisioning import generators, job
from atoll.deploy.kubernetes.workloads import bus, gateway, part
from atoll.deploy.plan import Plan
from atoll.deploy.provisioning import texts
from atoll.deploy.secrets import BUS_CONFIGURATION, Keeper, given_names, secret_files
from atoll.errors import SystemMistake

__all__ = ["BUS_FILE", "Told", "render", "secret_generators"]


BUS_FILE = f"base/{BUS_CONFIGURATION}"
_TAKEN = (BUS, GATEWAY, PROVISION, *OWN_NAMES, "namespace", "network", "kustomization")


@dataclass(frozen=True, slots=True)
class Told:
    """`images` are references by name; `bus` is the text of nats.conf, which holds public keys only, `bus_of_three` that of
    three servers.
    """

    images: Mapping[str, str]
    bus: str
    bus_of_three: str = ""


def render(plan: Plan, told: Told) -> dict[str, str]:
    """All files but secrets. Raises SystemMistake: two names are one in Kubernetes."""
    _check(plan)
    files = {
        "namespace": [_namespace(plan)],
        "network": policies(plan),
        BUS: bus(plan, told.images[BUS]),
        PROVISION: job(plan, told.images[PROVISION]),
        GATEWAY: gateway(plan, told.images[GATEWAY]),
        **{host(one.name): part(plan, one, told.images[one.name]) for one in plan.parts},
    }
    base = kustomization(
        namespace=plan.system.name,
        resources=[f"{name}.yaml" for name in files],
        configMapGenerator=[_bus_generator(), *generators(plan)],
    )
    return {
        ".gitignore": "/secrets/\n",
        "SECRETS.md": _wanted(plan),
        **{f"base/{name}.yaml": documents(objects) for name, objects in files.items()},
        BUS_FILE: told.bus,
        **{f"base/{name}": text for name, text in texts(plan).items()},
        "base/kustomization.yaml": base,
        **overlays(plan, told.images),
        **(component(plan, told.bus_of_three) if plan.system.bus.servers != 1 else {}),
        **podman(plan, [one for objects in files.values() for one in objects], databases(plan, told.images)),
        **external_secrets(plan, _secrets(plan)),
        **observability.files(plan.system.name),
    }


def _bus_generator() -> dict[str, object]:
    """Its name stays: the bus reads it anew without being started anew."""
    return {"name": BUS, "files": [BUS_CONFIGURATION], "options": {"disableNameSuffixHash": True}}


def secret_generators(plan: Plan, *, certified: bool = True) -> str:
    """The kustomization beside secrets that are files, for `overlays/dev`. Names stay: who changes one starts pods anew.

    Not `certified`: the gateway's certificate is no file, because somebody else brings it.
    """
    found = {name: files for name, files in _secrets(plan).items() if certified or name != TLS}
    kinds = {TLS: {"type": "kubernetes.io/tls"}}
    generated = [
        {"name": host(name), **kinds.get(name, {}), "files": [f"{name}/{file}" for file in files]}
        for name, files in found.items()
    ]
    options = {"disableNameSuffixHash": True}
    return kustomization(namespace=plan.system.name, generatorOptions=options, secretGenerator=generated)


def _check(plan: Plan) -> None:
    seen = dict.fromkeys(_TAKEN, "the manifests' own")
    seen |= {host(migrating(one.name)): f"what migrates {one.name}" for one in plan.parts if migrates(one)}
    for one in plan.parts:
        if other := seen.get(host(one.name)):
            raise SystemMistake(
                f"{one.name} has a name in Kubernetes that is taken: {other}", where=one.spec.where, hint="rename it"
            )
        seen[host(one.name)] = one.name


def _namespace(plan: Plan) -> dict[str, object]:
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return named("v1 Namespace", plan.system.name, {"app.kubernetes.io/part-of": plan.system.name, **levels})


def _secrets(plan: Plan) -> dict[str, list[str]]:
    """Files by Secret."""
    found: dict[str, list[str]] = {}
    for path in secret_files(plan, _nobody(plan)):
        name, _, file = path.partition("/")
        if path != BUS_CONFIGURATION:
            found.setdefault(name, []).append(file)
    return found


def _nobody(plan: Plan) -> Keeper:
    """Who knows which secrets there are, and none of them."""
    files = dict.fromkeys(("tls.crt", "tls.key", "ca.crt"), "")
    return Keeper(str, dict.fromkeys(given_names(plan), ""), lambda _names: files)


_CERTIFIED = """
`gateway-tls` is of the type `kubernetes.io/tls`, as cert-manager makes it and renews it: the gateway takes over what changes in
it. `overlays/dev` has it only where a certificate was there to render.
"""


def _wanted(plan: Plan) -> str:
    listed = {host(name): ", ".join(f"`{file}`" for file in files) for name, files in _secrets(plan).items()}
    rows = "".join(f"| `{name}` | {files} |\n" for name, files in listed.items())
    return f"""\
# Secrets of {plan.system.name}

Rendered by atoll. No manifest holds a secret: each pod mounts the Secret of its own name, whoever makes it. `overlays/dev`
makes them of the files in `secrets/`; elsewhere put the same files where your cluster's secrets come from. Passwords of the
bus are seeds of nkeys, whose public halves are in `base/nats/nats.conf`. Secrets of a `…-database` are for `overlays/dev`; of
those, `overlays/operators` needs the `database_password` of a MongoDB, and makes every `database_url` itself.
{_CERTIFIED if TLS in listed else ""}
| Secret | keys |
| --- | --- |
{rows}"""
