"""Values that a schema accepts, more or less, and the curl command that sends them."""

from __future__ import annotations

import shlex
from typing import Any

import msgspec

from atoll.gateway.page.sketch import resolve

__all__ = ["curl", "example", "first_content"]

Json = dict[str, Any]
_DEPTH = 6
_FORMATS = {
    "uuid": "0192f0c1-2d5e-7c3a-9b1f-4e5d6c7b8a90",
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00",
    "email": "ada@example.com",
    "uri": "https://example.com",
    "decimal": "9.90",
    "binary": "@file",
}
_SCALARS: dict[str, Any] = {"integer": 1, "number": 1.5, "boolean": True, "null": None}


def curl(method: str, path: str, operation: Json, api: Json) -> str:
    """A command for a shell, one option a line. It reads the token from $TOKEN."""
    lines = [f"curl {_verb(method)}{shlex.quote(_url(path, operation, api))}"]
    if operation.get("security"):
        lines.append('-H "Authorization: Bearer $TOKEN"')
    lines += _body(operation, api)
    return " \\\n  ".join(lines)


def example(schema: Any, api: Json, depth: int = 0) -> Any:
    """The schema's own example when it has one."""
    if not isinstance(schema, dict) or depth > _DEPTH:
        return None
    schema = resolve(schema, api)
    if "example" in schema or schema.get("examples"):
        return schema.get("example", (schema.get("examples") or [None])[0])
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if schema.get("enum"):
        return schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return example(schema[name][0], api, depth)
    return _by_type(schema, api, depth)


def first_content(node: Json) -> tuple[str, Json]:
    """Media type and schema of a request body or a response; `("", {})` when it has none."""
    for media_type, content in (node.get("content") or {}).items():
        return media_type, content.get("schema") or {}
    return "", {}


def _by_type(schema: Json, api: Json, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = next((one for one in kind if one != "null"), "null") if isinstance(kind, list) else kind
    if kind == "object":
        members = schema.get("properties") or {}
        wanted = schema.get("required") or list(members)
        return {name: example(members[name], api, depth + 1) for name in wanted if name in members}
    if kind == "array":
        return [example(schema.get("items"), api, depth + 1)]
    if kind in ("integer", "number") and "minimum" in schema:
        return schema["minimum"] or _SCALARS[kind]
    return _SCALARS[kind] if kind in _SCALARS else _FORMATS.get(schema.get("format", ""), "text")


def _verb(method: str) -> str:
    return "" if method == "GET" else "-I " if method == "HEAD" else f"-X {method} "


def _url(path: str, operation: Json, api: Json) -> str:
    query = []
    for parameter in operation.get("parameters", []):
        if parameter.get("in") == "path":
            path = path.replace("{" + parameter["name"] + "}", str(_of_parameter(parameter, api)))
        elif parameter.get("in") == "query" and parameter.get("required"):
            query.append(f"{parameter['name']}={_of_parameter(parameter, api)}")
    server: str = api["servers"][0]["url"]
    return server.rstrip("/") + path + ("?" + "&".join(query) if query else "")


def _of_parameter(parameter: Json, api: Json) -> Any:
    return parameter.get("example", example(parameter.get("schema"), api))


def _body(operation: Json, api: Json) -> list[str]:
    media_type, schema = first_content(resolve(operation.get("requestBody") or {}, api))
    if not media_type:
        return []
    value = example(schema, api)
    if media_type == "application/json":
        text = msgspec.json.format(msgspec.json.encode(value), indent=0).decode()
        return ["-H 'Content-Type: application/json'", f"-d {shlex.quote(text)}"]
    option = "-F" if media_type == "multipart/form-data" else "-d"
    fields = value if isinstance(value, dict) else {}
    return [f"{option} {shlex.quote(f'{name}={one}')}" for name, one in fields.items()]
