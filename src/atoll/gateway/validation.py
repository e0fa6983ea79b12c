"""Envoy's own opinion of a whole snapshot, before any of it is written.

`--mode validate` reads a bootstrap and everything in it as a starting Envoy does, with the same code, and opens no port. It
does not follow file subscriptions, so what they would bring is put in their place: nothing is staged, nothing watched.
When it is asked, and what that costs, stands in `docs/decisions/0008-validation.md`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from atoll.engines import envoy
from atoll.gateway.xds import bootstrap
from atoll.gateway.xds.typed import Json

__all__ = ["bootstrap_of", "check", "questionable"]

Resources = Mapping[str, list[Json]]


async def check(resources: Resources) -> str:
    """Why Envoy would refuse them; "" when it would take them. Raises EngineOutage where there is no Envoy to ask."""
    with tempfile.TemporaryDirectory(prefix="atoll-validate-") as folder:
        file = Path(folder) / "bootstrap.json"
        file.write_bytes(msgspec.json.encode(bootstrap_of(resources)))
        return _reason(await envoy.check(envoy.find(), file), folder)


def questionable(old: Resources, new: Resources) -> bool:
    """Whether a change needs Envoy's opinion first.

    Not when only endpoints differ: they were parsed before they came here. Not when one ECDS resource does: Envoy
    takes that or leaves it, and a withdrawn key must not wait.
    """
    changed = {(kind, name) for kind in new for name in _changed(kind, old.get(kind, []), new[kind])}
    return len(changed) > 1 or any(kind != "ecds" for kind, _ in changed)


def _changed(kind: str, old: list[Json], new: list[Json]) -> set[str]:
    before, after = ({str(one["name"]): _without_endpoints(one) for one in some} for some in (old, new))
    gone = set() if kind == "cds" else before.keys() - after.keys()
    return gone | {name for name, one in after.items() if before.get(name) != one}


def _without_endpoints(resource: Json) -> Json:
    return {name: value for name, value in resource.items() if name != "load_assignment"}


def bootstrap_of(resources: Resources) -> Json:
    """All of it in one document. Routes and filters take the place of the references to them."""
    named = {str(one["name"]): one for kind, some in resources.items() if kind not in ("lds", "cds") for one in some}
    return {
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
    """The last line that Envoy says, without its time and the name of a file that is gone."""
    if not said:
        return ""
    last = said.splitlines()[-1].replace(f" '{folder}/bootstrap.json'", "")
    return last.rpartition("] ")[2] if last.startswith("[") else last
