"""OpenAPI 3.1 from a service's operations."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from atoll.service import annotations as types
from atoll.service import caching, repeats
from atoll.service.arguments import Argument, From
from atoll.service.mounting import is_asgi
from atoll.service.operations import BODY_LIMIT_BYTES, Operation
from atoll.service.problems import title
from atoll.service.schemas import Schemas

if TYPE_CHECKING:
    from atoll.service.service import Service

__all__ = ["MOUNTED_METHODS", "openapi_of"]

MOUNTED_METHODS = ("get", "post", "put", "patch", "delete", "options")
_IN_URL = {From.PATH: "path", From.QUERY: "query", From.HEADER: "header", From.COOKIE: "cookie"}
_REST = "The rest of the path, slashes included."
_PROBLEM = {"$ref": "#/components/responses/Problem"}


class _Parameter(NamedTuple):
    """One parameter of an operation; a struct that takes the whole query is several."""

    name: str
    place: str
    type: Any
    required: bool
    default: Any
    description: str = ""


def openapi_of(service: Service) -> dict[str, Any]:
    """The document. The same declarations give the same document."""
    operations = service.operations
    schemas = Schemas(_annotations(operations))
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    if service.app is not None:
        _add_mounted(service, paths)
    return {
        "openapi": "3.1.0",
        "info": {"title": service.title, "version": service.version},
        "paths": paths,
        "components": {
            "schemas": dict(sorted({**schemas.components, "Problem": _PROBLEM_SCHEMA}.items())),
            "responses": {"Problem": _PROBLEM_RESPONSE},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _annotations(operations: Iterable[Operation]) -> Iterator[tuple[Any, str]]:
    """With file:line of who uses them."""
    for operation in operations:
        for parameter in _parameters(operation):
            yield parameter.type, operation.where
        for argument in operation.arguments:
            if argument.source in (From.BODY, From.FORM) and types.bare(argument.type) is not bytes:
                yield argument.type, operation.where
        if _has_schema(operation):
            yield operation.returns, operation.where


def _has_schema(operation: Operation) -> bool:
    return operation.status != 204 and not types.is_response(operation.returns) and operation.returns is not Any


def _operation(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    summary, description = _prose(operation)
    described: dict[str, Any] = {"operationId": operation.id, "summary": summary}
    if description:
        described["description"] = description
    if operation.tags:
        described["tags"] = list(operation.tags)
    if parameters := [*(_parameter(one, schemas) for one in _parameters(operation)), *_key(operation)]:
        described["parameters"] = parameters
    if body := _body(operation, schemas):
        described["requestBody"] = body
    described["responses"] = _responses(operation, schemas)
    described["security"] = [] if operation.public else [{"token": [operation.scope] if operation.scope else []}]
    if operation.timeout_s is not None:
        described["x-atoll-timeout-s"] = operation.timeout_s
    if operation.websocket:
        described["x-atoll-upgrade"] = "websocket"
    if operation.streaming:
        described["x-atoll-streaming"] = True
    if operation.repeatable:
        described["x-atoll-repeatable"] = True
    if operation.try_timeout_s is not None:
        described["x-atoll-try-timeout-s"] = operation.try_timeout_s
    if operation.body_limit_bytes != BODY_LIMIT_BYTES:
        described["x-atoll-body-limit-bytes"] = operation.body_limit_bytes
    if operation.idempotency_key != "ignored":
        described["x-atoll-idempotent"] = True
    if operation.rate_limit is not None:
        described["x-atoll-rate-limit"] = str(operation.rate_limit)
    return described


def _key(operation: Operation) -> list[dict[str, Any]]:
    """The header that makes it safe to send the request again."""
    if operation.idempotency_key == "ignored":
        return []
    return [
        {
            "name": repeats.HEADER,
            "in": "header",
            "required": operation.idempotency_key == "required",
            "schema": {"type": "string", "minLength": 1, "maxLength": repeats.KEY_LIMIT_CHARACTERS},
            "description": "A new random value for each thing to be done. Sent again with the same key, the request is "
            "answered as before and has no second effect.",
        }
    ]


def _prose(operation: Operation) -> tuple[str, str]:
    """The docstring's first line, or the function's name, and the rest."""
    lines = (inspect.getdoc(operation.handler) or "").split("\n", 1)
    summary = lines[0].strip().rstrip(".") or operation.id.replace("_", " ").capitalize()
    return summary, lines[1].strip() if len(lines) > 1 else ""


def _parameters(operation: Operation) -> Iterator[_Parameter]:
    rest = operation.path.rpartition("{")[2].removesuffix(":path}") if operation.path.endswith(":path}") else ""
    for argument in operation.arguments:
        place = _IN_URL.get(argument.source)
        if place is None:
            continue
        if argument.whole:
            yield from _fields(argument, place)
        else:
            description = _REST if argument.wire == rest and place == "path" else ""
            yield _Parameter(argument.wire, place, argument.type, argument.required, argument.default, description)


def _fields(argument: Argument, place: str) -> Iterator[_Parameter]:
    kind = types.bare(argument.type)
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return
    for one in msgspec.structs.fields(kind):
        name = one.encode_name.replace("_", "-") if place == "header" else one.encode_name
        yield _Parameter(name, place, one.type, one.required, one.default)


def _parameter(one: _Parameter, schemas: Schemas) -> dict[str, Any]:
    schema = dict(schemas.of(one.type))
    if not one.required and one.default not in (None, msgspec.NODEFAULT):
        schema["default"] = msgspec.to_builtins(one.default)
    described: dict[str, Any] = {"name": one.name, "in": one.place, "required": one.required, "schema": schema}
    if one.description:
        described["description"] = one.description
    return described


def _body(operation: Operation, schemas: Schemas) -> dict[str, Any] | None:
    argument = operation.one(From.BODY)
    if argument is not None:
        if types.bare(argument.type) is bytes:
            content: dict[str, Any] = {"*/*": {"schema": {}}}
        else:
            content = {"application/json": {"schema": schemas.of(argument.type)}}
        return {"required": argument.required, "content": content}
    parts = [one for one in operation.arguments if one.source in (From.FORM, From.FILE)]
    return {"required": True, "content": _form(parts, schemas)} if parts else None


def _form(parts: list[Argument], schemas: Schemas) -> dict[str, Any]:
    has_file = any(one.source is From.FILE for one in parts)
    media = "multipart/form-data" if has_file else "application/x-www-form-urlencoded"
    if len(parts) == 1 and parts[0].whole:
        return {media: {"schema": schemas.of(parts[0].type)}}
    properties: dict[str, Any] = {}
    required: list[str] = []
    for one in parts:
        if one.whole:
            resolved = schemas.resolved(one.type)
            properties |= resolved.get("properties", {})
            required += resolved.get("required", [])
            continue
        properties[one.wire] = schemas.of(one.type) if one.source is From.FORM else _file(one)
        required += [one.wire] if one.required else []
    return {media: {"schema": {"type": "object", "properties": properties, "required": required}}}


def _file(argument: Argument) -> dict[str, Any]:
    kind = types.bare(types.optional_of(argument.type) or argument.type)
    one = {"type": "string", "contentMediaType": "application/octet-stream"}
    return {"type": "array", "items": one} if getattr(kind, "__origin__", None) is list else one


def _responses(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    success: dict[str, Any] = {"description": title(operation.status)}
    if _has_schema(operation):
        success["content"] = {"application/json": {"schema": schemas.of(operation.returns)}}
    responses = {str(operation.status): success}
    if operation.cache_s is not None:
        success["headers"] = _cache_headers(operation)
        responses["304"] = {"description": f"{title(304)}: If-None-Match named the answer's ETag"}
    for status, codes in sorted(_problems(operation).items()):
        if codes:
            responses[str(status)] = {
                "description": f"{title(status)}: {', '.join(sorted(codes))}",
                "content": _PROBLEM_RESPONSE["content"],
            }
    responses["default"] = _PROBLEM
    return responses


def _cache_headers(operation: Operation) -> dict[str, Any]:
    fixed = {"Cache-Control": caching.control_of(operation), "Vary": caching.vary_of(operation)}
    headers: dict[str, Any] = {name: {"schema": {"type": "string", "const": text}} for name, text in fixed.items() if text}
    return {**headers, "ETag": {"schema": {"type": "string"}}}


def _problems(operation: Operation) -> Mapping[int, set[str]]:
    """The declared errors and those that follow from the signature: codes by status."""
    found: dict[int, set[str]] = {}
    for error in operation.raises:
        found.setdefault(error.status, set()).add(error.code)
    if not operation.public:
        found.setdefault(401, set()).add("token_missing")
    if operation.scope:
        found.setdefault(403, set()).add("forbidden")
    if operation.rate_limit:
        found.setdefault(429, set()).add("too_many_requests")
    sources = {one.source for one in operation.arguments}
    if sources & {From.BODY, From.FORM, From.FILE}:
        found.setdefault(400, set()).add("malformed")
        found.setdefault(413, set()).add("too_large")
        found.setdefault(415, set()).add("unsupported_media_type")
    if sources & {From.BODY, From.FORM, From.FILE, *_IN_URL}:
        found.setdefault(422, set()).add("invalid")
    if operation.idempotency_key != "ignored":
        found.setdefault(400, set()).add("idempotency_key_malformed")
        found.setdefault(409, set()).add("idempotency_key_in_use")
        found.setdefault(422, set()).add("idempotency_key_reused")
    if operation.idempotency_key == "required":
        found[400].add("idempotency_key_missing")
    return found


def _add_mounted(service: Service, paths: dict[str, Any]) -> None:
    """What its own application answers: everything under the service's name that no operation does."""
    root = f"/{service.name}"
    own = [path for path in paths if path.startswith(f"{root}/")]
    for number, path in enumerate(dict.fromkeys((root, f"{root}/{{rest:path}}", *own))):
        item = paths.setdefault(path, {})
        for method in MOUNTED_METHODS:
            item.setdefault(method, _mounted(service, method, f"app_{method}_{number}", path))


def _mounted(service: Service, method: str, id: str, path: str) -> dict[str, Any]:
    names = [segment[1:-1].removesuffix(":path") for segment in path.split("/") if segment.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    return {
        "operationId": id,
        "summary": f"Answered by the application of {service.title}",
        **({"parameters": parameters} if parameters else {}),
        "responses": {"default": {"description": "Whatever the application answers"}},
        "security": [] if service.app_public else [{"token": []}],
        "x-atoll-streaming": True,
        **({"x-atoll-upgrade": "websocket"} if method == "get" and is_asgi(service.app) else {}),
    }


_PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457. `code` is stable and for programs; `errors` names every faulty field.",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "hint": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
                "required": ["field", "detail"],
            },
        },
        "details": {"type": "object"},
        "request_id": {"type": "string"},
    },
    "required": ["type", "title", "status", "code"],
}
_PROBLEM_RESPONSE: dict[str, Any] = {
    "description": "An error (RFC 9457)",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
