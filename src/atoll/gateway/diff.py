"""`atoll gateway diff`: what Envoy really uses against what it is meant to use, named by resource and field. (Drift, which the
controller looks for and puts right, is told by files and versions alone: `apply.Applier.drifted`.)

Envoy's own account (`/config_dump`) is in protobuf's JSON: what is at its default is left out, numbers of 64 bits are text,
durations are spelt in one of several ways. So both sides are brought into one form before they are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from atoll.gateway.xds import proof
from atoll.gateway.xds.branches import branched
from atoll.gateway.xds.typed import Json

__all__ = ["Difference", "differences", "running"]

_DURATION = re.compile(r"-?\d+(\.\d+)?s")
# The first words of the enums that are used here, which stand for "nothing said".
_FIRST_WORDS = frozenset({"ALLOW", "APPEND_IF_EXISTS_OR_ADD", "AUTO", "EQ", "HUNDRED", "ROUND_ROBIN"})
_NUMBER = re.compile(r"-?\d{1,20}")
# How Envoy names what it holds of each type: its list, the state within an entry, and the resource within that.
_DUMPED = (
    ("dynamic_listeners", "active_state", "listener"),
    ("dynamic_active_clusters", "", "cluster"),
    ("dynamic_route_configs", "", "route_config"),
    ("ecds_filters", "", "ecds_filter"),
)

Named = Mapping[tuple[str, str], Json]


@dataclass(frozen=True, slots=True)
class Difference:
    """`type` is the resource's message, like `Cluster`; `field` is empty when one side has no such resource at all."""

    type: str
    name: str
    field: str
    desired: Any
    running: Any

    def __str__(self) -> str:
        where = f"{self.type} {self.name}"
        if not self.field:
            return f"{where}: {'not running' if self.running is None else 'runs, and is not wanted'}"
        return f"{where}: {self.field}: runs {_short(self.running)}, wanted {_short(self.desired)}"


def running(dump: Json) -> Named:
    """The dynamic resources of a `/config_dump`, by type and name, without routes that are only tried."""
    found = {}
    for section in dump.get("configs", ()):
        for entries, state, resource in _DUMPED:
            for entry in section.get(entries, ()):
                held = (entry.get(state) or {} if state else entry).get(resource)
                if held:
                    found[_key(held)] = held
    found.pop(("RouteConfiguration", proof.NAME), None)
    return found


def differences(desired: Mapping[str, list[Json]], running: Named) -> tuple[Difference, ...]:
    """In the order of type and name. Empty when Envoy does what it is meant to do."""
    wanted = {_key(one): _as_read(one) for resources in desired.values() for one in resources}
    found: list[Difference] = []
    for key in sorted(wanted.keys() | running.keys()):
        if key not in wanted or key not in running:
            found.append(Difference(*key, "", wanted.get(key), running.get(key)))
            continue
        fields = _fields(_canonical(wanted[key]), _canonical(running[key]), "")
        found += (Difference(*key, field, *sides) for field, sides in fields)
    return tuple(found)


def _as_read(resource: Json) -> Json:
    """Routes are put together as a list and read as a tree."""
    return branched(resource) if "virtual_hosts" in resource else resource


def _key(resource: Json) -> tuple[str, str]:
    return str(resource["@type"]).rpartition(".")[2], str(resource["name"])


def _fields(desired: Any, running: Any, at: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Where two differ, as deep as they can be followed."""
    if isinstance(desired, dict) and isinstance(running, dict):
        for name in sorted(desired.keys() | running.keys()):
            yield from _fields(desired.get(name), running.get(name), f"{at}.{name}" if at else name)
    elif isinstance(desired, list) and isinstance(running, list) and len(desired) == len(running):
        for index, pair in enumerate(zip(desired, running, strict=True)):
            yield from _fields(*pair, f"{at}[{index}]")
    elif desired != running:
        yield at, (desired, running)


def _canonical(value: Any) -> Any:
    """Without what is at its default; durations in seconds, numbers as numbers."""
    if isinstance(value, dict):
        found = {name: _canonical(one) for name, one in value.items()}
        return {name: one for name, one in found.items() if not _is_default(one)}
    if isinstance(value, list):
        return [_canonical(one) for one in value]
    if isinstance(value, str):
        return _number(value)
    return value


def _number(text: str) -> Any:
    if _DURATION.fullmatch(text):
        return float(text[:-1])
    return float(text) if _NUMBER.fullmatch(text) else text


def _is_default(value: Any) -> bool:
    return value is None or value is False or value in ("", 0) or value == [] or value == {} or _is_first_word(value)


def _is_first_word(value: Any) -> bool:
    return isinstance(value, str) and value in _FIRST_WORDS


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 100 else f"{text[:97]}…"
