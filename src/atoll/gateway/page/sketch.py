"""A JSON schema the way the JSON looks: names, types and limits, one line a member."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

__all__ = ["sketch"]

Json = dict[str, Any]
_DEPTH = 6
_LIMITS = (
    ("minimum", "≥ "),
    ("exclusiveMinimum", "> "),
    ("maximum", "≤ "),
    ("exclusiveMaximum", "< "),
    ("multipleOf", "multiple of "),
    ("minLength", "length ≥ "),
    ("maxLength", "length ≤ "),
    ("minItems", "items ≥ "),
    ("maxItems", "items ≤ "),
    ("pattern", "matches "),
    ("default", "default "),
)


def sketch(schema: Json, api: Json) -> str:
    """Text with indented lines. Optional members have a `?` behind their name."""
    return _Sketch(api).of(schema, 0)


def resolve(schema: Json, api: Json) -> Json:
    """The schema behind `$ref`s into this document."""
    seen = 0
    while "$ref" in schema and seen < 20:
        node: Any = api
        for part in schema["$ref"].removeprefix("#/").split("/"):
            node = node.get(part.replace("~1", "/").replace("~0", "~"), {})
        schema, seen = node, seen + 1
    return schema


class _Sketch:
    def __init__(self, api: Json) -> None:
        self._api = api

    def of(self, schema: Any, depth: int) -> str:
        if not isinstance(schema, dict):
            return "any"
        name = schema.get("$ref", "").rpartition(".")[2]
        schema = resolve(schema, self._api)
        if depth > _DEPTH:
            return name or "…"
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            return " | ".join(self.of(one, depth) for one in choices)
        if "allOf" in schema and len(schema["allOf"]) == 1:
            return self.of(schema["allOf"][0], depth)
        return self._one(schema, depth)

    def _one(self, schema: Json, depth: int) -> str:
        if "const" in schema:
            return _value(schema["const"])
        if "enum" in schema:
            return " | ".join(_value(one) for one in schema["enum"])
        kind = schema.get("type", "object" if "properties" in schema else "any")
        if isinstance(kind, list):
            return " | ".join(self._one({**schema, "type": one}, depth) for one in kind)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        return _scalar(kind, schema)

    def _object(self, schema: Json, depth: int) -> str:
        members = schema.get("properties") or {}
        if not members:
            values = schema.get("additionalProperties")
            return f"{{string: {self.of(values, depth + 1)}}}" if isinstance(values, dict) else "object"
        indent = "  " * (depth + 1)
        lines = [indent + line for line in self._members(members, set(schema.get("required") or ()), depth + 1)]
        return "{\n" + "\n".join(lines) + "\n" + "  " * depth + "}"

    def _members(self, members: Json, required: set[str], depth: int) -> Iterator[str]:
        for name, schema in members.items():
            note = schema.get("description", "") if isinstance(schema, dict) else ""
            mark = "" if name in required else "?"
            yield f'"{name}"{mark}: {self.of(schema, depth)}' + (f"  — {note}" if note else "")

    def _array(self, schema: Json, depth: int) -> str:
        limits = _limits(schema)
        return f"[{self.of(schema.get('items', {}), depth)}]" + (f" ({limits})" if limits else "")


def _scalar(kind: str, schema: Json) -> str:
    shown = f"{kind} {schema['format']}" if schema.get("format") else kind
    limits = _limits(schema)
    return f"{shown} ({limits})" if limits else shown


def _limits(schema: Json) -> str:
    return ", ".join(f"{text}{_value(schema[name])}" for name, text in _LIMITS if name in schema)


def _value(value: Any) -> str:
    return msgspec.json.encode(value).decode()
