"""A service's contract document, as `system.contract` reads it. Pure: the same declarations give the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from atoll.service import annotations as types
from atoll.service.asyncapi import asyncapi_of
from atoll.service.openapi import openapi_of
from atoll.service.settings import Secret, Settings

if TYPE_CHECKING:
    from atoll.service.service import Service

__all__ = ["describe"]

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", Secret: "string"}


def describe(service: Service) -> dict[str, Any]:
    """OpenAPI, AsyncAPI, kind of database and settings in one envelope. Raises SystemMistake for what can't work."""
    return {
        "format": 1,
        "service": service.name,
        "database": service.database,
        "openapi": openapi_of(service),
        "asyncapi": asyncapi_of(service),
        "settings": [setting for cls in service.settings for setting in _settings(cls)],
    }


def _settings(cls: type[Settings]) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "type": _json_type(one.type),
            "required": one.required,
            "secret": _kind(one.type) is Secret,
        }
        for one in msgspec.structs.fields(cls)
    ]


def _kind(annotation: Any) -> Any:
    annotation = types.bare(annotation)
    return types.bare(types.optional_of(annotation) or annotation)


def _json_type(annotation: Any) -> str:
    kind = _kind(annotation)
    origin = getattr(kind, "__origin__", kind)
    if origin in (list, tuple, set, frozenset):
        return "array"
    if origin is dict or (isinstance(origin, type) and issubclass(origin, msgspec.Struct)):
        return "object"
    return _JSON_TYPES.get(kind, "string")
