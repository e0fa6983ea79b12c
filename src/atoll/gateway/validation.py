"""Envoy's own opinion of a whole snapshot, before any of it is written.

`--mode validate` reads a bootstrap and everything in it as a starting Envoy does, with the same code, and opens no port. It
does not follow file subscriptions, so what they would bring is put in their place: nothing is staged, nothing watched.
When it is asked, and what that costs, stands in `docs/decisions/0008-validation.md`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from atoll.gateway.xds import bootstrap
from atoll.gateway.xds.typed import Json

__all__ = ["bootstrap_of", "check", "part_to_check", "questionable"]

_STAMP = re.compile(r"^(\[[^\]]*\])+ (\[[^\]]*\] )?")
# Envoy repeats what is wrong, which may be all routes, and ends with why.
_BEGINNING, _END = 200, 400

Resources = Mapping[str, list[Json]]


async def check(resources: Resources) -> str:
    """Why Envoy would refuse them; "" when it would take them. Raises EngineOutage where there is no Envoy to ask."""
    # Few changes need it: a controller starts without.
    import tempfile

    from atoll.engines import envoy

    with tempfile.TemporaryDirectory(prefix="atoll-validate-") as folder:
        file = Path(folder) / "bootstrap.json"
        file.write_bytes(msgspec.json.encode(bootstrap_of(resources)))
        return _reason(await envoy.check(envoy.find(), file), folder)


def questionable(old: Resources, new: Resources) -> bool:
    """Whether a change needs Envoy's opinion first. Both hold the types of which something differs.

    Not when only endpoints differ: they were parsed before they came here. Not when one filter does: Envoy takes that or
    leaves it, and a key that was withdrawn must not wait.
    """
    changed = {(kind, name) for kind in new for name in _changed(old.get(kind, []), new[kind])}
    return len(changed) > 1 or any(kind in ("lds", "cds", "rds") for kind, _ in changed)


def _changed(old: list[Json], new: list[Json]) -> set[str]:
    """The names of what is new or not the same; what is gone can't be wrong."""
    before = {one["name"]: _without_endpoints(one) for one in old}
    return {str(one["name"]) for one in new if before.get(one["name"]) != _without_endpoints(one)}


def part_to_check(old: Resources, new: Resources) -> Resources:
    """All of `new`, but of its routes those only that are not in `old`: the others were checked when they came.

    `old` holds the types of which something differs; without route tables in it, no route does.
    """
    known = {_text(route) for table in old.get("rds", new["rds"]) for route in _routes(table)}
    return {**new, "rds": [_without_routes(table, known) for table in new["rds"]]}


def _routes(table: Json) -> list[Json]:
    return [route for host in table["virtual_hosts"] for route in host.get("routes", ())]


def _without_routes(table: Json, known: set[bytes]) -> Json:
    hosts = table["virtual_hosts"]
    fresh = [{**host, "routes": [route for route in host.get("routes", ()) if _text(route) not in known]} for host in hosts]
    return {**table, "virtual_hosts": fresh}


def _text(route: Json) -> bytes:
    return msgspec.json.encode(route, order="deterministic")


def _without_endpoints(resource: Json) -> Json:
    return {name: value for name, value in resource.items() if name != "load_assignment"}


def bootstrap_of(resources: Resources) -> Json:
    """All of it in one document. Routes and filters take the place of the references to them."""
    named = {str(one["name"]): one for kind, some in resources.items() if kind not in ("lds", "cds") for one in some}
    return {
        "node": bootstrap.NODE,
        "layered_runtime": bootstrap.runtime(),
        "static_resources": {
            "listeners": [_filled(_untyped(one), named) for one in resources["lds"]],
            "clusters": [_untyped(one) for one in resources["cds"]],
        },
    }


def _filled(value: Any, named: Mapping[str, Json]) -> Any:
    """With the subscriptions of routes and filters replaced by what they would bring; secrets stay files."""
    if isinstance(value, list):
        return [_filled(one, named) for one in value]
    if not isinstance(value, dict):
        return value
    if "config_discovery" in value:
        brought = named[value["name"]]
        rest = {name: one for name, one in value.items() if name != "config_discovery"}
        return {**rest, "typed_config": brought["typed_config"]}
    found = {name: _filled(one, named) for name, one in value.items() if name != "rds"}
    if "rds" in value:
        found["route_config"] = _untyped(named[value["rds"]["route_config_name"]])
    return found


def _untyped(message: Json) -> Json:
    return {name: value for name, value in message.items() if name != "@type"}


def _reason(said: str, folder: str) -> str:
    """What Envoy says, on one line, without its time and the name of a file that is gone."""
    plain = " ".join(_STAMP.sub("", line).strip() for line in said.splitlines())
    plain = plain.replace(f" '{folder}/bootstrap.json'", "")
    return plain if len(plain) <= _BEGINNING + _END else f"{plain[:_BEGINNING]} … {plain[-_END:]}"
