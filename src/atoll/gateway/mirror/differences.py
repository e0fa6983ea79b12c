"""How two answers to one request differ. Pure.

JSON is compared by meaning: the order of keys and the spelling of numbers don't count, lists go by position. Everything else is
compared byte by byte. Values that are secrets by their names, of headers and of fields, are compared and never shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec

from atoll.gateway.mirror.samples import Answer

__all__ = ["Difference", "Rules", "compare"]

# What differs between any two answers, belongs to the connection, or describes how a body was packed.
_NEVER = frozenset(
    {"date", "server", "age", "content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive"}
    | {"x-request-id", "traceparent", "tracestate", "via", "alt-svc"}
)
_SECRET_NAMES = re.compile(r"passw|secret|token|credential|authorization|api[_-]?key|cookie|csrf|xsrf|session", re.IGNORECASE)
_ABSENT = "(absent)"
_HIDDEN = "***"
_SHOWN = 80
_MOST = 100
_DEEPEST = 64
_MISSING = object()

# Keys of objects and places in lists.
Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """`kind` is status, header or body; `where` the header's name or a JSON pointer, with `*` for a place in a list."""

    kind: str
    where: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What is not compared: `header:NAME`, and `body:POINTER` with all below it, `*` being any one step."""

    headers: frozenset[str] = frozenset()
    pointers: tuple[tuple[str, ...], ...] = field(default=())

    @classmethod
    def parse(cls, ignore: Sequence[str]) -> Rules:
        pairs = [one.partition(":")[::2] for one in ignore]
        headers = frozenset(name.lower() for kind, name in pairs if kind == "header")
        return cls(headers, tuple(_steps(pointer) for kind, pointer in pairs if kind == "body"))

    def ignores(self, steps: Steps) -> bool:
        """Whether a rule names this place or one around it."""
        return any(
            len(rule) <= len(steps) and all(mine in ("*", str(theirs)) for mine, theirs in zip(rule, steps, strict=False))
            for rule in self.pointers
        )


def compare(first: Answer, second: Answer, rules: Rules) -> tuple[Difference, ...]:
    """At most a hundred: more would be read by nobody."""
    return tuple(islice(_differences(first, second, rules), _MOST))


def _differences(first: Answer, second: Answer, rules: Rules) -> Iterator[Difference]:
    if first.status != second.status:
        yield Difference("status", "", str(first.status), str(second.status))
    yield from _headers(first, second, rules)
    if not rules.ignores(()):
        yield from _bodies(first, second, rules)


def _headers(first: Answer, second: Answer, rules: Rules) -> Iterator[Difference]:
    for name in sorted({name for name, _ in (*first.headers, *second.headers)} - _NEVER - rules.headers):
        one, other = _values(first, name), _values(second, name)
        if one == other:
            continue
        secret = _SECRET_NAMES.search(name) and name != "set-cookie"
        shown = [_HIDDEN if value and secret else _short(value) or _ABSENT for value in (one, other)]
        yield Difference("header", name, *shown)


def _values(answer: Answer, name: str) -> str:
    """Of cookies their names alone: values differ by nature."""
    if name != "set-cookie":
        return answer.header(name)
    return ", ".join(sorted(value.partition("=")[0].strip() for known, value in answer.headers if known == name))


def _bodies(first: Answer, second: Answer, rules: Rules) -> Iterator[Difference]:
    one, other = _json(first), _json(second)
    if one is not _MISSING and other is not _MISSING:
        yield from _values_at(one, other, (), rules)
    elif first.body != second.body:
        at = next((i for i, pair in enumerate(zip(first.body, second.body, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(first.body), len(second.body)) if at is None else at
        yield Difference("body", f"byte {at}" if at else "", _bytes(first.body, at), _bytes(second.body, at))


def _json(answer: Answer) -> Any:
    kind = answer.header("content-type").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        return _MISSING
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return _MISSING


def _values_at(one: Any, other: Any, steps: Steps, rules: Rules) -> Iterator[Difference]:
    if steps and rules.ignores(steps):
        return
    deeper = len(steps) < _DEEPEST
    if deeper and isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from _values_at(one.get(key, _MISSING), other.get(key, _MISSING), (*steps, key), rules)
    elif deeper and isinstance(one, list) and isinstance(other, list):
        yield from _lists(one, other, steps, rules)
    elif not _same(one, other):
        yield Difference("body", _pointer(steps), _value(one, steps), _value(other, steps))


def _lists(one: list[Any], other: list[Any], steps: Steps, rules: Rules) -> Iterator[Difference]:
    for at, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        yield from _values_at(mine, theirs, (*steps, at), rules)
    if len(one) != len(other):
        yield Difference("body", _pointer(steps), f"({len(one)} items)", f"({len(other)} items)")


def _same(one: Any, other: Any) -> bool:
    """True is no 1, though Python says so; 1 and 1.0 are one number."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _pointer(steps: Steps) -> str:
    """RFC 6901, without the indices that make every item another place."""
    return "".join("/" + ("*" if isinstance(step, int) else step.replace("~", "~0").replace("/", "~1")) for step in steps)


def _steps(pointer: str) -> tuple[str, ...]:
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


def _value(value: Any, steps: Steps) -> str:
    if value is _MISSING:
        return _ABSENT
    return (
        _HIDDEN
        if any(_SECRET_NAMES.search(str(step)) for step in steps)
        else _short(msgspec.json.encode(_public(value)).decode())
    )


def _public(value: Any, levels: int = 8) -> Any:
    """A whole object that one side alone has, without what is secret in it, and as deep as anything of it would be shown."""
    if not levels:
        return "…"
    if isinstance(value, dict):
        return {key: _HIDDEN if _SECRET_NAMES.search(key) else _public(one, levels - 1) for key, one in value.items()}
    return [_public(one, levels - 1) for one in value] if isinstance(value, list) else value


def _bytes(body: bytes, at: int) -> str:
    """A little before the place, so that a person sees where it is."""
    return _short(body[max(0, at - 10) : at + _SHOWN].decode("utf-8", "replace")) if body else "(empty)"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
