"""`atoll gateway show`: the IR as text for people and as JSON for programs.

Both walk the dataclasses of `ir` as they are, so that a fact that is added there is shown without a word here. In text, a
field at its default says nothing; in both, a field with `repr=False` holds a secret and is shown as `***`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any

import msgspec

from atoll.gateway.ir import Cluster, Endpoint, Gateway, MethodList, MethodRefusal, Route
from atoll.tokens.keys import KeySet

__all__ = ["Health", "chosen", "plain", "text"]

_WIDTH = 128
_SECRET = "***"
_LONG = 80
# Facts that stand in a column of their own.
_ROUTE_COLUMNS = frozenset({"methods", "path", "service", "cluster", "token.required", "token.scope", "name"})
_CLUSTER_COLUMNS = frozenset({"name", "service", "endpoints"})
_TABLES = frozenset({"routes", "clusters"})

# What Envoy says of a replica, by cluster name and address: `healthy`, or what is wrong.
Health = Mapping[tuple[str, str], str]


def plain(value: Any) -> Any:
    """Everything, as JSON has it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) if one.repr else _SECRET for one in fields(value)}
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return value.value if isinstance(value, Enum) else value


def chosen(gateway: Gateway, what: str) -> tuple[tuple[Any, ...], tuple[Cluster, ...]]:
    """The routes and clusters of a service, an operation, or, when `what` begins with a slash, of the path that matches it."""
    routes = _of_path(gateway, what) if what.startswith("/") else _of_name(gateway, what)
    names = {name for route in routes for name in _answering(route)}
    return routes, tuple(one for one in gateway.clusters if one.name in names or one.service == what)


def _answering(entry: Any) -> Iterator[str]:
    """The clusters that may answer it, a canary's too, and its service's own."""
    if isinstance(entry, Route):
        yield from (name for name, _ in entry.shares)
        yield entry.service


def _of_path(gateway: Gateway, path: str) -> tuple[Any, ...]:
    """As Envoy does it: the first that matches decides, with all that stand beside it for other methods."""
    with_path = [route for route in gateway.routes if hasattr(route, "path")]
    same = [route for route in with_path if route.path.template == path] or [one for one in with_path if one.path.matches(path)]
    return tuple(route for route in same if route.path.shape == same[0].path.shape)


def _of_name(gateway: Gateway, name: str) -> tuple[Any, ...]:
    return tuple(one for one in gateway.routes if name in (getattr(one, "service", None), getattr(one, "name", None)))


def text(gateway: Gateway, health: Health, what: str | None = None) -> str:
    """For people, at most 128 columns wide; with `what`, the part that `chosen` gives."""
    routes, clusters = chosen(gateway, what) if what else (_operations(gateway), gateway.clusters)
    lines = [] if what else [*_settings(gateway), ""]
    lines += _table(("METHOD", "PATH", "TO", "TOKEN", "OPERATION"), [_route(route) for route in routes])
    lines += ["", *_table(("CLUSTER", "ENDPOINT", "HEALTH"), [row for one in clusters for row in _cluster(one, health)])]
    return "\n".join(line for one in lines for line in _wrapped(one))


def _operations(gateway: Gateway) -> tuple[Any, ...]:
    """Without what answers other methods: that is there for every path, and says nothing that the path's methods don't."""
    return tuple(route for route in gateway.routes if not isinstance(route, MethodList | MethodRefusal))


def _settings(gateway: Gateway) -> Iterator[str]:
    """All of the gateway but its tables, one line for each thing."""
    for one in fields(gateway):
        value = getattr(gateway, one.name)
        if one.name in _TABLES or _is_usual(one, value):
            continue
        many = value if isinstance(value, tuple) and any(map(is_dataclass, value)) else (value,)
        yield from (f"{one.name:<12}{_line(each)}" for each in many)


def _line(value: Any) -> str:
    if is_dataclass(value) and not isinstance(value, type) and not _own_text(value):
        return "  ".join(_facts(value))
    return _short(value)


def _route(route: Any) -> tuple[tuple[str, ...], list[str]]:
    """Its cells, and what else there is to say."""
    if isinstance(route, Route):
        token = route.token
        rule = token.scope or "token" if token.required else "public"
        methods = ",".join(route.methods)
        return (methods, str(route.path), route.cluster, rule, route.name), list(_facts(route, without=_ROUTE_COLUMNS))
    path = str(getattr(route, "path", ""))
    if isinstance(route, MethodRefusal):
        return ("*", path, "405", "public", f"allow={','.join(route.allow)}"), []
    return ("*", path, _words(type(route).__name__), "", ""), list(_facts(route, without=frozenset({"path"})))


def _cluster(cluster: Cluster, health: Health) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    facts = list(_facts(cluster, without=_CLUSTER_COLUMNS))
    if not cluster.endpoints:
        yield (cluster.name, "none", ""), facts
    for endpoint in cluster.endpoints:
        said = health.get((cluster.name, str(endpoint)), "unknown")
        yield (cluster.name, _short(endpoint), said), [*facts, *(["tls"] if endpoint.tls else [])]
        facts = []


def _facts(value: Any, before: str = "", without: frozenset[str] = frozenset()) -> Iterator[str]:
    """`name=value` for each field that is not at its default, nested ones as `token.scope=…`."""
    for one in fields(value):
        name, fact = before + one.name, getattr(value, one.name)
        if name in without or _is_usual(one, fact):
            continue
        if not one.repr:
            yield f"{name}={_SECRET}"
        elif is_dataclass(fact) and not isinstance(fact, type) and not _own_text(fact):
            yield from _facts(fact, f"{name}.", without)
        else:
            yield name if fact is True else f"{name}={_short(fact)}"


def _is_usual(one: Field[Any], value: Any) -> bool:
    if one.default is not MISSING:
        return bool(value == one.default)
    if one.default_factory is not MISSING:
        return bool(value == one.default_factory())
    return value is False or value == ()


def _short(value: Any) -> str:
    if isinstance(value, KeySet):
        return ",".join(key.kid for key in value.keys)
    if isinstance(value, Endpoint):
        return str(value)
    if isinstance(value, str):
        return value if len(value) <= _LONG else f"({len(value.encode())} bytes)"
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(map(_short, value))
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{_short(one)}" for name, one in value.items())
    if is_dataclass(value) and not isinstance(value, type) and not _own_text(value):
        return f"({' '.join(_facts(value))})"
    if isinstance(value, msgspec.Struct):
        return msgspec.json.encode(value).decode()
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def _own_text(value: Any) -> bool:
    """Whether its class says how it is written, as a path or an endpoint does."""
    return any("__str__" in vars(one) for one in type(value).__mro__ if one is not object)


def _words(name: str) -> str:
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()


def _table(titles: tuple[str, ...], rows: Sequence[tuple[tuple[str, ...], list[str]]]) -> list[str]:
    """Columns as wide as what is in them, except where one long cell would push all the others away."""
    widths = [
        min(max(len(cells[column]) for cells in [titles, *(cells for cells, _ in rows)]), 40) for column in range(len(titles))
    ]
    lines = []
    for cells, facts in [(titles, []), *rows]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join([line, *facts]).rstrip())
    return lines


def _wrapped(line: str) -> list[str]:
    if len(line) <= _WIDTH:
        return [line]
    wrapped = textwrap.wrap(line, _WIDTH, subsequent_indent=" " * 12, break_on_hyphens=False, drop_whitespace=True)
    return [one.rstrip() for one in wrapped]
