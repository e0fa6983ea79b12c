"""Envoy's own opinion of a whole snapshot, before any of it is written.

`--mode validate` reads a bootstrap and everything in it as a starting Envoy does, with the same code, and opens no port. It
does not follow file subscriptions, so what they would bring is put in their place: nothing is staged, nothing watched.
Which changes need it, and what that costs, stands in `docs/decisions/0008-validation.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any

import msgspec

from atoll.gateway.xds import bootstrap, proof
from atoll.gateway.xds.branches import branched
from atoll.gateway.xds.typed import Json

__all__ = ["Question", "bootstrap_of", "check", "part_to_check", "question", "without_cluster"]

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


class Question(Enum):
    """What of a change needs Envoy's opinion before anything is written."""

    NONE = auto()
    ROUTES = auto()
    """New routes alone: the Envoy that runs can try them (`proof`)."""
    ALL = auto()
    """Settings that the Envoy that runs would use at once, so another one is asked."""


def question(old: Resources, new: Resources) -> Question:
    """Both hold the types of which something differs.

    Endpoints were parsed before they came here, and a cluster that has another one's settings is as good as that. A single
    filter is taken or left by Envoy whole, and a key that was withdrawn must not wait.
    """
    changed = {(kind, name) for kind in new for name in _changed(old.get(kind, []), new[kind])}
    kinds = {kind for kind, _ in changed}
    if "lds" in kinds or not _settings(new.get("cds", [])) <= _settings(old.get("cds", [])):
        return Question.ALL
    if kinds <= {"cds", "rds"}:
        return Question.ROUTES if "rds" in kinds else Question.NONE
    return Question.NONE if len(changed) == 1 else Question.ALL


def _settings(clusters: list[Json]) -> set[bytes]:
    """All that there are, whoever has them."""
    return {_text({**_without_endpoints(one), "name": ""}) for one in clusters}


def without_cluster(resources: Resources) -> str:
    """What is wrong with routes to a cluster that is not among these resources; "" when there are none.

    Envoy looks for clusters itself in a list of routes (`validate_clusters`), and not in a tree.
    """
    clusters = {one["name"] for one in resources["cds"]}
    routes = (route for table in resources["rds"] for route in _routes(table))
    unknown = {name for route in routes for name in _destinations(route.get("route", {}))} - clusters
    return "; ".join(f"route: unknown cluster '{name}'" for name in sorted(unknown))


def _destinations(action: Json) -> Iterator[str]:
    if "cluster" in action:
        yield action["cluster"]
    yield from (one["name"] for one in action.get("weighted_clusters", {}).get("clusters", ()))
    yield from (one["cluster"] for one in action.get("request_mirror_policies", ()))


def _changed(old: list[Json], new: list[Json]) -> set[str]:
    """The names of what is new or not the same; what is gone can't be wrong."""
    before = {one["name"]: _without_endpoints(one) for one in old}
    return {str(one["name"]) for one in new if before.get(one["name"]) != _without_endpoints(one)}


def part_to_check(old: Resources, new: Resources) -> Resources:
    """All of `new`, but of its routes those only that are not in `old`: the others were checked when they came.

    `old` holds the types of which something differs; without route tables in it, no route does.
    """
    before = [route for table in old.get("rds", new["rds"]) for route in _routes(table)]
    after = [route for table in new["rds"] for route in _routes(table)]
    fresh = _fresh(before, after)
    return {**new, "rds": [_with_routes(table, fresh) for table in new["rds"]]}


def _fresh(before: list[Json], after: list[Json]) -> set[int]:
    """The ids of those that were not there. Most are the very same objects, whose content need not be looked at."""
    both = {id(route) for route in before} & {id(route) for route in after}
    known = {_text(route) for route in before if id(route) not in both}
    return {id(route) for route in after if id(route) not in both and _text(route) not in known}


def _routes(table: Json) -> list[Json]:
    return [route for host in table["virtual_hosts"] for route in host.get("routes", ())]


def _with_routes(table: Json, wanted: set[int]) -> Json:
    """With these alone."""
    hosts = table["virtual_hosts"]
    some = [{**host, "routes": [route for route in host.get("routes", ()) if id(route) in wanted]} for host in hosts]
    return {**table, "virtual_hosts": some}


def _text(message: Json) -> bytes:
    return msgspec.json.encode(message, order="deterministic")


def _without_endpoints(resource: Json) -> Json:
    return {name: value for name, value in resource.items() if name != "load_assignment"}


def bootstrap_of(resources: Resources) -> Json:
    """All of it in one document. Routes and filters take the place of the references to them."""
    brought = [one for kind, some in resources.items() if kind not in ("lds", "cds") for one in some]
    named = {str(one["name"]): one for one in [*brought, *proof.nothing()]}
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
        found["route_config"] = _untyped(branched(named[value["rds"]["route_config_name"]]))
    return found


def _untyped(message: Json) -> Json:
    return {name: value for name, value in message.items() if name != "@type"}


def _reason(said: str, folder: str) -> str:
    """What Envoy says, on one line, without its time and the name of a file that is gone."""
    plain = " ".join(word for line in said.splitlines() for word in _STAMP.sub("", line).split())
    plain = plain.replace(f" '{folder}/bootstrap.json'", "")
    return plain if len(plain) <= _BEGINNING + _END else f"{plain[:_BEGINNING]} … {plain[-_END:]}"
