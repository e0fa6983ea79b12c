"""How Envoy's JSON names a message's type, and the one header action that is used everywhere."""

from __future__ import annotations

from typing import Any

__all__ = ["Json", "header", "seconds", "type_url", "typed", "typed_extension"]

Json = dict[str, Any]


def type_url(message: str) -> str:
    return f"type.googleapis.com/{message}"


def typed(message: str, /, **fields: Any) -> Json:
    """A message as `Any`."""
    return {"@type": type_url(message), **fields}


def typed_extension(extension: str, message: str, /, **fields: Any) -> Json:
    """A filter or other extension with its configuration."""
    return {"name": extension, "typed_config": typed(message, **fields)}


def header(name: str, value: str) -> Json:
    """A header that is set, whatever was there."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def seconds(value: float) -> str:
    """Protobuf's JSON form of a duration."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + "s"
