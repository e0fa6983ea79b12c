"""A service's contract: what it offers and needs, as published JSON, and the frozen view that everything is computed from.

On disk a contract is standard documents in one envelope, so that a service in any language can write it by hand:

    {"format": 1, "service": "orders", "database": "postgresql",
     "openapi": {OpenAPI 3.1}, "asyncapi": {AsyncAPI 3.0}, "settings": [{"name", "type", "required", "secret"}]}

Scopes stand in OpenAPI's `security` (`[{"token": ["orders:write"]}]`; `[]` is public); events in AsyncAPI's channels, whose
address is the bus subject (`event.orders.order_placed.{partition}`), with `x-atoll-key` and `x-atoll-partitions`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal, get_args

import msgspec

from atoll.errors import SystemMistake
from atoll.system.access import access
from atoll.system.rates import Rate

__all__ = [
    "BODY_LIMIT_BYTES",
    "Contract",
    "Operation",
    "Protocol",
    "Published",
    "Setting",
    "Subscription",
    "bytes_of",
    "seconds_of",
]

Protocol = Literal["http1", "h2"]
"""How replicas are spoken to: HTTP/1.1, or HTTP/2 without TLS from the first byte (RFC 9113 §3.3), as gRPC wants it."""

# What an operation takes that does not say.
BODY_LIMIT_BYTES = 1 << 20
# What it may say at most: a day, since what takes longer streams; and what is counted in 32 bits.
_TIMEOUT_MOST_S = 86_400.0
_BODY_LIMIT_MOST_BYTES = (1 << 32) - 1
_READ_WHOLE = {"application/json", "application/x-www-form-urlencoded"}
# Envoy's clock for requests counts these, and 0 of them is no timeout at all.
_LEAST_S = 0.001
_METHODS = ("get", "head", "post", "put", "patch", "delete", "options")
# What may be said with keys of our own, by where it stands. Another one is a mistake: it would protect nothing.
_OF_DOCUMENT = ("protocol",)
_OF_OPERATION = (
    *("timeout-s", "streaming", "body-limit-bytes", "idempotent", "repeatable", "upgrade", "try-timeout-s", "rate-limit"),
)
_OF_CHANNEL = ("key", "partitions")
_OF_EVENT_HANDLER = ("alone",)


class Operation(msgspec.Struct, frozen=True):
    """One verb on one path. `path` is OpenAPI's template, `/orders/{id}`; `scope` None with `public` False: any token.

    `idempotent`: with an Idempotency-Key the same request may be sent again. `repeatable`: it may without one, as every GET.
    `whole_body`: it takes a body that can only be read whole, JSON or a form without files. `cache` is the `Cache-Control` that
    its answers always carry, "" where they say nothing or not always the same.
    """

    id: str
    method: str
    path: str
    public: bool = False
    scope: str | None = None
    timeout_s: float | None = None
    streaming: bool = False
    body_limit_bytes: int | None = None
    idempotent: bool = False
    repeatable: bool = False
    try_timeout_s: float | None = None
    rate_limit: Rate | None = None
    whole_body: bool = False
    websocket: bool = False
    cache: str = ""


class Published(msgspec.Struct, frozen=True):
    """An event this service publishes. Its type on the wire is `<service>.<name>`."""

    name: str
    key: str
    partitions: int = 1
    schema: dict[str, Any] = {}


class Subscription(msgspec.Struct, frozen=True):
    """An event this service consumes: `source` is the publisher's name, `schema` what it needs to find in it."""

    source: str
    name: str
    alone: bool = False
    schema: dict[str, Any] = {}


class Setting(msgspec.Struct, frozen=True):
    """A value that the service reads from manifest or environment. `type` is a JSON schema type name."""

    name: str
    type: str = "string"
    required: bool = True
    secret: bool = False


class Contract(msgspec.Struct, frozen=True):
    """The parsed view. `document` is the whole JSON; `digest`, 16 hex digits of its canonical form, identifies its meaning."""

    service: str
    digest: str
    document: dict[str, Any]
    database: str | None = None
    operations: tuple[Operation, ...] = ()
    publishes: tuple[Published, ...] = ()
    consumes: tuple[Subscription, ...] = ()
    settings: tuple[Setting, ...] = ()
    protocol: Protocol = "http1"

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Event names consumed, by publisher, sorted."""
        names: dict[str, list[str]] = {}
        for subscription in self.consumes:
            names.setdefault(subscription.source, []).append(subscription.name)
        return {source: tuple(sorted(set(found))) for source, found in sorted(names.items())}

    def beside(self, *others: Contract) -> Contract:
        """What may be done on the bus while other versions run beside this one: publish and consume what any of them does."""
        every = (*others, self)
        published = {event.name: event for one in every for event in one.publishes}
        consumed = {(event.source, event.name): event for one in every for event in one.consumes}
        return msgspec.structs.replace(self, publishes=tuple(published.values()), consumes=tuple(consumed.values()))

    @classmethod
    def parse(cls, document: Mapping[str, Any], *, where: str = "") -> Contract:
        """Raises SystemMistake that names `where` and what is missing or wrong."""
        try:
            return _parse(dict(document))
        except (KeyError, TypeError, ValueError, AttributeError, msgspec.ValidationError) as error:
            raise SystemMistake(
                f"this is not a contract: {type(error).__name__}: {error}",
                where=where,
                hint="`atoll describe NAME` prints one; docs/reference/contract.md lists the fields",
            ) from error


def canonical(document: Mapping[str, Any]) -> bytes:
    """One byte string per meaning: sorted keys, no spaces."""
    return msgspec.json.encode(document, order="deterministic")


def _parse(document: dict[str, Any]) -> Contract:
    if document["format"] != 1:
        raise ValueError(f"format is {document['format']!r}; this atoll reads format 1")
    asyncapi = document.get("asyncapi") or {}
    _check_events(asyncapi)
    return Contract(
        service=document["service"],
        digest=hashlib.sha256(canonical(document)).hexdigest()[:16],
        document=document,
        database=document.get("database"),
        operations=_operations(document.get("openapi") or {}),
        publishes=_published(document["service"], asyncapi),
        consumes=_consumed(asyncapi),
        settings=tuple(msgspec.convert(document.get("settings") or [], list[Setting])),
        protocol=_one_of(document.get("openapi") or {}, "x-atoll-protocol", *get_args(Protocol)),
    )


def _one_of(part: Mapping[str, Any], name: str, *choices: str) -> Any:
    """The first is what it is when it is not there. Raises ValueError."""
    value = part.get(name, choices[0])
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, not {' or '.join(map(repr, filter(None, choices)))}")
    return value


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Says of what is wrong where it stands."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def _flag(part: Mapping[str, Any], name: str) -> bool:
    value = part.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, not true or false")
    return value


def _check_keys(part: Mapping[str, Any], known: tuple[str, ...] = ()) -> None:
    for key in part:
        if key.lower().startswith("x-atoll") and key.removeprefix("x-atoll-") not in known:
            names = ", ".join(f"x-atoll-{one}" for one in known) or "none"
            raise ValueError(f"{key} means nothing here; keys of that kind here: {names}")


def _check_events(asyncapi: Mapping[str, Any]) -> None:
    _check_keys(asyncapi)
    for kind, known in (("channels", _OF_CHANNEL), ("operations", _OF_EVENT_HANDLER)):
        for name, part in (asyncapi.get(kind) or {}).items():
            with _named(f"{kind[:-1]} {name}"):
                _check_keys(part, known)


def _check_operation(method: str, operation: Mapping[str, Any]) -> None:
    _check_keys(operation, _OF_OPERATION)
    id = operation.get("operationId", "-")
    if not isinstance(id, str) or not id:
        raise ValueError(f"operationId is {id!r}, not a text")
    if "x-atoll-upgrade" in operation and method != "get":
        raise ValueError("x-atoll-upgrade stands at something else than a get: a WebSocket begins as one")


def _operations(openapi: Mapping[str, Any]) -> tuple[Operation, ...]:
    _check_keys(openapi, _OF_DOCUMENT)
    ids: dict[str, str] = {}
    found = []
    for path, item in (openapi.get("paths") or {}).items():
        with _named(path):
            _check_keys(item)
        for method in _METHODS:
            if method not in item:
                continue
            what = f"{method.upper()} {path}"
            with _named(what):
                _check_operation(method, item[method])
                operation = _operation(method, path, item[method], openapi)
                if (other := ids.setdefault(operation.id, what)) != what:
                    raise ValueError(f"the operationId {operation.id} is that of {other} already")
            found.append(operation)
    return tuple(found)


def seconds_of(part: Mapping[str, Any], name: str) -> float | None:
    """None when it is not there. Raises ValueError, also for what is no number."""
    value = part.get(name)
    if value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and _LEAST_S <= value <= _TIMEOUT_MOST_S
    ):
        return value
    raise ValueError(f"{name} is {value!r}, not a number of seconds from {_LEAST_S} to {_TIMEOUT_MOST_S:.0f}")


def bytes_of(part: Mapping[str, Any], name: str) -> int | None:
    """Likewise."""
    value = part.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _BODY_LIMIT_MOST_BYTES):
        return value
    raise ValueError(f"{name} is {value!r}, not a whole number of bytes from 1 to {_BODY_LIMIT_MOST_BYTES}")


def _operation(method: str, path: str, one: Mapping[str, Any], openapi: Mapping[str, Any]) -> Operation:
    who = access(one, openapi)
    return Operation(
        id=one.get("operationId", f"{method}_{path}"),
        method=method.upper(),
        path=path,
        public=who.public,
        scope=who.scope,
        timeout_s=seconds_of(one, "x-atoll-timeout-s"),
        streaming=_flag(one, "x-atoll-streaming"),
        body_limit_bytes=bytes_of(one, "x-atoll-body-limit-bytes"),
        idempotent=_flag(one, "x-atoll-idempotent"),
        repeatable=_flag(one, "x-atoll-repeatable"),
        websocket=_one_of(one, "x-atoll-upgrade", "", "websocket") == "websocket",
        try_timeout_s=seconds_of(one, "x-atoll-try-timeout-s"),
        rate_limit=Rate.parse(one["x-atoll-rate-limit"]) if "x-atoll-rate-limit" in one else None,
        whole_body=_whole_body(one),
        cache=_cache(one),
    )


def _whole_body(operation: Mapping[str, Any]) -> bool:
    media_types = (operation.get("requestBody") or {}).get("content") or {}
    return bool(media_types) and not media_types.keys() - _READ_WHOLE


def _cache(operation: Mapping[str, Any]) -> str:
    """What the description of its success says, where that is one constant text. Nothing depends on it, so one that can't be
    read is none.
    """
    with suppress(AttributeError, KeyError, TypeError):
        for status, response in sorted(operation["responses"].items()):
            found = {name.lower(): header for name, header in response.get("headers", {}).items() if status.startswith("2")}
            said = found.get("cache-control", {}).get("schema", {}).get("const")
            if isinstance(said, str):
                return said
    return ""


def _address(asyncapi: Mapping[str, Any], operation: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]]:
    """(service, event name, channel) of an AsyncAPI operation."""
    name = operation["channel"]["$ref"].removeprefix("#/channels/").replace("~1", "/").replace("~0", "~")
    channel = asyncapi["channels"][name]
    prefix, service, event, _partition = channel["address"].split(".")
    if prefix != "event":
        raise ValueError(f"channel {name}: the address must be event.<service>.<type>.{{partition}}")
    return service, event, channel


def _published(service: str, asyncapi: Mapping[str, Any]) -> tuple[Published, ...]:
    found = []
    for operation in (asyncapi.get("operations") or {}).values():
        if operation["action"] != "send":
            continue
        owner, event, channel = _address(asyncapi, operation)
        if owner != service:
            raise ValueError(f"{service} can't publish {owner}.{event}: a service publishes in its own name only")
        found.append(
            Published(event, channel["x-atoll-key"], channel.get("x-atoll-partitions", 1), _payload(asyncapi, channel))
        )
    return tuple(found)


def _payload(asyncapi: Mapping[str, Any], channel: Mapping[str, Any]) -> dict[str, Any]:
    for message in (channel.get("messages") or {}).values():
        while "$ref" in message:
            node: Any = asyncapi
            for part in message["$ref"].removeprefix("#/").split("/"):
                node = node[part]
            message = node
        return dict(message.get("payload") or {})
    return {}


def _consumed(asyncapi: Mapping[str, Any]) -> tuple[Subscription, ...]:
    found = []
    for operation in (asyncapi.get("operations") or {}).values():
        if operation["action"] == "receive":
            source, event, channel = _address(asyncapi, operation)
            found.append(Subscription(source, event, _flag(operation, "x-atoll-alone"), _payload(asyncapi, channel)))
    return tuple(found)
