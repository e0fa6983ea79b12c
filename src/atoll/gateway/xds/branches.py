"""A route table by the beginnings of paths. Envoy tries the routes of a list one after the other, a third of a microsecond
each: with hundreds of services that would be milliseconds a request. In a tree of prefixes it finds at once those that may
match.

The list is what counts: the first match of all. A branch has those of its routes, in their order, that may match a path with
its beginning, so the tree says the same. Only what Envoy reads is a tree; all else here is about the list.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from os.path import commonprefix

from atoll.gateway.xds.typed import Json, typed_extension

__all__ = ["branched"]

# What stands for itself in an expression, and is never spelt otherwise in a path (`paths`).
_STATIC = re.compile(r"(?:[A-Za-z0-9/_~-]|\\[.~-])*")
_REPEATED = ("?", "*", "+", "{")
# The first segment of a path, as far as it is known, and whether it ends there.
_SEGMENT = re.compile(r"(/[A-Za-z0-9._~-]+)(/?)")
_PATH = typed_extension(
    "envoy.matching.inputs.request_headers", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path"
)


def branched(table: Json) -> Json:
    """The same table as a tree."""
    return {**table, "virtual_hosts": [_host(one) for one in table.get("virtual_hosts", ())]}


def _host(host: Json) -> Json:
    rest = {name: value for name, value in host.items() if name != "routes"}
    routes = host.get("routes")
    return {**rest, "matcher": _tree(routes)} if routes else rest


def _tree(routes: Sequence[Json]) -> Json:
    begun = [(_beginning(route.get("match") or {}), route) for route in routes]
    keys = _Keys(beginning for beginning, _ in begun)
    branches: dict[str, list[Json]] = {key: [] for key in keys.all}
    others: list[Json] = []
    for beginning, route in begun:
        above, below = keys.of(beginning)
        for key in (*above, *below):
            branches[key].append(route)
        if not above:
            others.append(route)
    found: Json = {"on_no_match": _list(others)} if others else {}
    if branches:
        lists = {key: _list(some) for key, some in branches.items()}
        found["matcher_tree"] = {"input": _PATH, "prefix_match_map": {"map": lists}}
    return found


def _list(routes: list[Json]) -> Json:
    return {"action": typed_extension("routes", "envoy.config.route.v3.RouteList", routes=routes)}


class _Keys:
    """The first segments of all paths. A path belongs to the longest that it begins with."""

    def __init__(self, beginnings: Iterator[str]) -> None:
        self.all = sorted({found[1] for one in beginnings if (found := _SEGMENT.match(one))})
        self._known = frozenset(self.all)
        self._found: dict[str, tuple[list[str], list[str]]] = {}

    def of(self, beginning: str) -> tuple[list[str], list[str]]:
        """Those that this begins with, and those that begin with it: elsewhere no path can have it."""
        whole = _SEGMENT.match(beginning)
        head = whole[0] if whole else beginning
        if head not in self._found:
            above = [head[:size] for size in range(2, len(head) + 1) if head[:size] in self._known]
            self._found[head] = above, [key for key in self._below(head) if key not in above]
        return self._found[head]

    def _below(self, head: str) -> Iterator[str]:
        for key in self.all[bisect_left(self.all, head) :]:
            if not key.startswith(head):
                return
            yield key


def _beginning(match: Json) -> str:
    """What every path begins with that it takes."""
    for kind in ("path", "prefix", "path_separated_prefix"):
        if kind in match:
            return str(match[kind])
    return _begins_with(match["safe_regex"]["regex"]) if "safe_regex" in match else "/"


@lru_cache(maxsize=65_536)
def _begins_with(expression: str) -> str:
    # Characters in common, not segments.
    return commonprefix([_static(one) for one in _alternatives(expression)])  # noqa: RUF071


def _alternatives(expression: str) -> list[str]:
    """Cut at each `|` that is in no group, no set and not escaped."""
    if "|" not in expression:
        return [expression]
    found, depth, begin, at = [], 0, 0, 0
    while at < len(expression):
        match expression[at]:
            case "\\":
                at += 1
            case "(":
                depth += 1
            case ")":
                depth -= 1
            case "[":
                at = expression.index("]", at + 2)
            case "|" if not depth:
                found.append(expression[begin:at])
                begin = at + 1
        at += 1
    return [*found, expression[begin:]]


def _static(expression: str) -> str:
    """What stands at its beginning and can't be otherwise."""
    found = _STATIC.match(expression)
    text = found[0] if found else ""
    rest = expression[len(text) :]
    plain = text.replace("\\", "")
    return plain[:-1] if rest.startswith(_REPEATED) else plain
