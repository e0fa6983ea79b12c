"""What several tables of `atoll.toml` must keep together: names that others mean, paths that one alone may have."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.system.manifest.positions import Places
from atoll.system.manifest.view import GATEWAY_PATHS, CorsSpec, MirrorSpec, ServiceSpec, System

__all__ = ["check"]


def check(system: System, places: Places) -> None:
    """Raises SystemMistake, with the place of what does not fit."""
    names = {spec.name for spec in system.services}
    if system.gateway.fallback and system.gateway.fallback not in names:
        hint = f"services here: {', '.join(sorted(names)) or 'none'}"
        raise places.mistake(("gateway", "fallback"), f"there is no service {system.gateway.fallback!r}", hint)
    _roles(system, places)
    _cors(system.gateway.cors, places)
    _mirrors(system, places)
    _prefixes([spec for spec in system.services if spec.kind != "simulator" and spec.name not in system.seconds], places)


def _roles(system: System, places: Places) -> None:
    """What stands in one table, and means a service of another."""
    for spec in system.services:
        if spec.kind == "simulator" and spec.name == system.gateway.fallback:
            detail = f"{spec.name} is a simulator: nothing reaches it through the gateway"
            raise places.mistake(("gateway", "fallback"), detail, "name a service, or leave `fallback` out")
        if spec.canary and f"{spec.name}-canary" in {other.name for other in system.services}:
            detail = f"{spec.name}-canary is what the canaries of {spec.name} are called"
            raise places.mistake(("services", f"{spec.name}-canary"), detail, "choose another name for the service")
    for name, provider in system.auth.options.get("providers", {}).items():
        if provider["issuer"] == system.issuer:
            detail = f"the provider {name} has the issuer of this system's own tokens"
            raise places.mistake(("auth", "providers", name, "issuer"), detail, "other issuers only stand here")


def _mirrors(system: System, places: Places) -> None:
    for number, mirror in enumerate(system.gateway.mirrors):
        _ends(system, mirror, places)
        _paths(system, mirror, places)
        for other in system.gateway.mirrors[:number]:
            if other.primary == mirror.primary and _overlap(other, mirror):
                detail = f"the mirrors {other.name} and {mirror.name} are both of {mirror.primary} and share paths"
                raise places.mistake(("gateway", "mirrors", mirror.name), detail, "give each one `paths` of its own")


def _ends(system: System, mirror: MirrorSpec, places: Places) -> None:
    routed = {spec.name for spec in system.services if spec.kind != "simulator"}
    for key, name in (("from", mirror.primary), ("to", mirror.second)):
        if name not in routed:
            hint = f"services here: {', '.join(sorted(routed)) or 'none'}"
            raise places.mistake(("gateway", "mirrors", mirror.name, key), f"there is no service {name!r} to mirror", hint)
    at = ("gateway", "mirrors", mirror.name, "to")
    if mirror.second in {system.gateway.fallback, *(other.primary for other in system.gateway.mirrors)}:
        hint = "`to` is asked by mirrors alone; declare the second version as a service of its own"
        raise places.mistake(at, f"clients get answers of {mirror.second}, so it can't be who is asked a second time", hint)


def _paths(system: System, mirror: MirrorSpec, places: Places) -> None:
    """Where clients get the answers of another, there is nothing to compare."""
    routed = [spec for spec in system.services if spec.kind != "simulator" and spec.name not in system.seconds]
    named = {"paths": mirror.paths, "unsafe": tuple(one.partition(" ")[2] for one in mirror.unsafe)}
    for key, path in ((key, path) for key, paths in named.items() for path in paths):
        owner = max((one for one in routed if _below(path, one.prefix)), key=lambda one: len(one.prefix), default=None)
        name = owner.name if owner else system.gateway.fallback
        if name != mirror.primary:
            detail = f"{path} is not answered by {mirror.primary} but by {name or 'nobody'}"
            hint = f"name paths of {mirror.primary}"
            raise places.mistake(("gateway", "mirrors", mirror.name, key), detail, hint)


def _cors(cors: CorsSpec | None, places: Places) -> None:
    if cors is None:
        return
    if not cors.origins:
        hint = 'origins = ["https://shop.example"]'
        raise places.mistake(("gateway", "cors"), "[gateway.cors] allows no origin anything", hint)
    if cors.credentials and "*" in cors.origins:
        detail = "every page of the internet could act with the cookies of whoever looks at it"
        raise places.mistake(("gateway", "cors", "origins"), detail, "name the origins, or leave `credentials` out")


def _prefixes(routed: Sequence[ServiceSpec], places: Places) -> None:
    owners: dict[str, str] = {"/auth": "auth"}
    for spec in routed:
        at = ("services", spec.name, "prefix")
        for own in GATEWAY_PATHS:
            if spec.prefix == own or spec.prefix.startswith(f"{own}/"):
                detail = f"{spec.name} can't have the prefix {spec.prefix}: {own} is the gateway's own"
                raise places.mistake(at, detail, "give it another prefix")
        if (other := owners.setdefault(spec.prefix, spec.name)) != spec.name:
            whose = other if other == "auth" else f"{other} already ({places.where(('services', other))})"
            detail = f"{spec.name} can't have the prefix {spec.prefix}: it belongs to {whose}"
            raise places.mistake(at, detail, "give one of them another prefix")


def _below(path: str, prefix: str) -> bool:
    return prefix == "/" or path == prefix or path.startswith(f"{prefix}/")


def _overlap(one: MirrorSpec, other: MirrorSpec) -> bool:
    pairs = [(mine, theirs) for mine in one.paths or ("/",) for theirs in other.paths or ("/",)]
    return any(_below(mine, theirs) or _below(theirs, mine) for mine, theirs in pairs)
