"""AsyncAPI 3.0 from the events that a service publishes and consumes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from atoll.service.events import Declaration, Event
from atoll.service.operations import Subscription
from atoll.service.schemas import Schemas

if TYPE_CHECKING:
    from atoll.service.service import Service

__all__ = ["asyncapi_of"]


def asyncapi_of(service: Service) -> dict[str, Any]:
    """The document. Channels are bus subjects; a consumed event's payload is this service's own view of it."""
    published = [(cls, found) for cls, found in zip(service.publishes, service.declarations, strict=True) if not found.subject]
    subscriptions = service.subscriptions
    schemas = Schemas([*((cls, "") for cls, _ in published), *((one.event.type, one.where) for one in subscriptions)])
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for cls, found in published:
        channel = f"{service.name}.{found.name}"
        channels[channel] = _published(service.name, cls, found, schemas)
        operations[f"publish.{channel}"] = _operation("send", channel, found.name)
    for one in subscriptions:
        channels.setdefault(one.type, _consumed(one, schemas))
        operations[f"handle.{one.type}"] = _receive(one)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": service.title, "version": service.version},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "schemas": schemas.referred_to_by(channels),
            "messageTraits": {"event": {"contentType": "application/json", "headers": _HEADERS}},
        },
    }


def _published(service: str, cls: type[Event], found: Declaration, schemas: Schemas) -> dict[str, Any]:
    return {
        "address": f"event.{service}.{found.name}.{{partition}}",
        "parameters": {"partition": _partition(found.partitions)},
        "messages": {found.name: _message(found.name, inspect.cleandoc(cls.__doc__ or ""), dict(schemas.resolved(cls)))},
        "x-atoll-key": found.key,
        "x-atoll-partitions": found.partitions,
    }


def _consumed(one: Subscription, schemas: Schemas) -> dict[str, Any]:
    return {
        "address": f"event.{one.source}.{one.name}.{{partition}}",
        "parameters": {"partition": {"description": "Chosen by the publisher."}},
        "messages": {one.name: _message(one.name, "", dict(schemas.resolved(one.event.type)))},
    }


def _partition(count: int) -> dict[str, Any]:
    described: dict[str, Any] = {"description": "CRC-32 of the key, modulo the number of partitions."}
    if count <= 16:
        described["enum"] = [str(number) for number in range(count)]
    return described


def _message(name: str, description: str, payload: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"name": name, "traits": [{"$ref": "#/components/messageTraits/event"}], "payload": payload}
    if description and not description.startswith(f"{payload.get('title')}("):
        message["description"] = description
    return message


def _operation(action: str, channel: str, message: str) -> dict[str, Any]:
    pointer = f"#/channels/{channel}"
    return {
        "action": action,
        "channel": {"$ref": pointer},
        "messages": [{"$ref": f"{pointer}/messages/{message}"}],
    }


def _receive(one: Subscription) -> dict[str, Any]:
    described = _operation("receive", one.type, one.name)
    if summary := (inspect.getdoc(one.handler) or "").split("\n", 1)[0]:
        described["summary"] = summary
    if one.alone:
        described["x-atoll-alone"] = True
    return described


_HEADERS: dict[str, Any] = {
    "type": "object",
    "description": "CloudEvents 1.0, binary mode.",
    "properties": {
        "ce-specversion": {"const": "1.0"},
        "ce-id": {"type": "string", "description": "The same at every delivery."},
        "ce-type": {"type": "string"},
        "ce-source": {"type": "string"},
        "ce-time": {"type": "string", "format": "date-time"},
        "ce-partitionkey": {"type": "string"},
        "traceparent": {"type": "string", "description": "W3C Trace Context."},
    },
    "required": ["ce-specversion", "ce-id", "ce-type", "ce-source"],
}
