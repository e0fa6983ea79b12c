"""Whether consumers can read what publishers write, by their contracts: before one of them is deployed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from atoll.system.contract import Contract, Published, Subscription

__all__ = ["unreadable"]

_ANY: Mapping[str, Any] = {}


def unreadable(publisher: Contract, consumer: Contract) -> list[str]:
    """What `consumer` needs of `publisher`'s events and would not find: `order_placed is not published`,
    `order_placed.total is not always there`, … Nothing when it can read all of them.
    """
    published = {event.name: event for event in publisher.publishes}
    wanted = [one for one in consumer.consumes if one.source == publisher.service]
    return [line for one in wanted for line in _event(one, published.get(one.name), (publisher, consumer))]


def _event(wanted: Subscription, found: Published | None, between: tuple[Contract, Contract]) -> list[str]:
    if found is None:
        return [f"{wanted.name} is not published"]
    if not wanted.schema or not found.schema:  # one of them does not say
        return []
    publisher, consumer = (one.document.get("asyncapi") or {} for one in between)
    return list(_Reader(publisher, consumer).faults(wanted.name, found.schema, wanted.schema))


class _Reader:
    """Holds what is written against what is read; each may refer to its own document."""

    def __init__(self, writer: Mapping[str, Any], reader: Mapping[str, Any]) -> None:
        self._writer = writer
        self._reader = reader
        self._open: set[tuple[int, int]] = set()

    def faults(self, at: str, written: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[str]:
        written, read = _resolved(self._writer, written), _resolved(self._reader, read)
        pair = (id(written), id(read))
        if pair in self._open:  # it refers to itself
            return
        self._open.add(pair)
        yield from list(self._judged(at, written, read))
        self._open.discard(pair)

    def _judged(self, at: str, written: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[str]:
        alternatives, accepted = _alternatives(written), _alternatives(read)
        if len(alternatives) > 1 or len(accepted) > 1:
            yield from self._each(at, alternatives, accepted)
        elif kinds := _refused(written, read):
            yield f"{at} is {kinds[0]} instead of {kinds[1]}"
        else:
            yield from self._members(at, written, read)

    def _each(self, at: str, written: list[Mapping[str, Any]], read: list[Mapping[str, Any]]) -> Iterator[str]:
        """Whatever is written has to suit one of those that are read."""
        for one in written:
            if not any(not list(self.faults(at, one, other)) for other in read):
                yield f"{at} may be {_kind(_resolved(self._writer, one))}, which is not expected"

    def _members(self, at: str, written: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[str]:
        there = written.get("properties") or {}
        for name, wanted in (read.get("properties") or {}).items():
            needed = name in (read.get("required") or ())
            if needed and name not in (written.get("required") or ()):
                yield f"{at}.{name} is {'not always there' if name in there else 'gone'}"
            elif name in there:
                yield from self.faults(f"{at}.{name}", there[name], wanted)
        if isinstance(written.get("items"), Mapping) and isinstance(read.get("items"), Mapping):
            yield from self.faults(f"{at}[]", written["items"], read["items"])


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        node: Any = document
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            node = node.get(part, _ANY)
        schema = node
    return schema


def _alternatives(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of `anyOf`, `oneOf` and a list of types."""
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return list(schema[key])
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": kind} for kind in schema["type"]]
    return [schema]


def _refused(written: Mapping[str, Any], read: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is written and what was expected, when the one is not the other; None when it is, or nobody says."""
    kind, expected = written.get("type"), read.get("type")
    if kind and expected and kind != expected and (kind, expected) != ("integer", "number"):
        return _kind(written), _kind(read)
    if read.get("format") and written.get("format") != read["format"]:
        return _kind(written), _kind(read)
    allowed = _values(read)
    if allowed and not set(_values(written) or ["anything"]) <= set(allowed):
        return _kind(written), _kind(read)
    return None


def _values(schema: Mapping[str, Any]) -> list[str]:
    found = [schema["const"]] if "const" in schema else schema.get("enum") or []
    return [repr(one) for one in found]


def _kind(schema: Mapping[str, Any]) -> str:
    """For a person: `string (uuid)`, `one of 'a', 'b'`."""
    if values := _values(schema):
        return f"one of {', '.join(values)}"
    named = f" ({schema['format']})" if schema.get("format") else ""
    return f"{schema.get('type', 'anything')}{named}"
