"""Events: what a service tells the world, as frozen structs, and how one becomes an outbox row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

import msgspec
from msgspec import StructMeta

from atoll.bus.ports import MAX_PAYLOAD_BYTES
from atoll.database.ports import OutboxRow
from atoll.delivery import envelope
from atoll.errors import Bug, SystemMistake
from atoll.service import context

__all__ = ["Declaration", "Event", "EventMeta", "encoder"]

_NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")


class Declaration(msgspec.Struct, frozen=True):
    """What a class said of itself. `key` names the field that order is kept for; `subject` is atoll's own use only;
    `{key}` in it stands for the key.
    """

    name: str
    key: str
    partitions: int = 1
    subject: str = ""


class EventMeta(StructMeta):
    """msgspec's metaclass plus the event's own class arguments."""

    __atoll_event__: Declaration | None

    def __new__(
        mcls,
        cls_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        name: str = "",
        key: str = "",
        partitions: int = 1,
        subject: str = "",
        **config: Any,
    ) -> EventMeta:
        cls = super().__new__(mcls, cls_name, bases, namespace, **{"frozen": True, **config})
        cls.__atoll_event__ = _declared(cls, Declaration(name, key, partitions, subject)) if name else None
        return cls


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, metaclass=EventMeta, frozen=True):
    """Base of everything a service publishes: `class OrderPlaced(Event, name="order_placed", key="order_id")`.

    On the wire its type is `<service>.<name>`. Events with the same key reach every subscriber in the order they were
    committed. `partitions` is for ever: another number moves keys to other subjects.
    """

    if TYPE_CHECKING:
        __atoll_event__: ClassVar[Declaration | None]

        def __init_subclass__(
            cls, *, name: str = "", key: str = "", partitions: int = 1, subject: str = "", **config: Any
        ) -> None: ...


def encoder(service: str, publishes: Iterable[type[Event]]) -> Callable[[Any], OutboxRow]:
    """What a database of `service` is given to turn an event into its outbox row. It raises Bug."""
    declared: dict[type, Declaration] = {cls: declaration(cls) for cls in publishes}
    to_json = msgspec.json.Encoder()

    def encode(event: Any) -> OutboxRow:
        found = declared.get(type(event))
        if found is None:
            raise Bug(
                f"{service} published {type(event).__name__}, which it did not declare",
                hint=f"Service({service!r}, publishes=[…, {type(event).__name__}])",
            )
        body = to_json.encode(event)
        row = envelope.encode(
            service,
            found.name,
            str(getattr(event, found.key)),
            body,
            partitions=found.partitions,
            subject=found.subject.replace("{key}", str(getattr(event, found.key))),
            traceparent=_traceparent(),
        )
        if len(body) + len(row.headers) > MAX_PAYLOAD_BYTES:
            # An event that can't be published would block the outbox for ever.
            raise Bug(
                f"{service}.{found.name} is {len(body):,} bytes; the bus takes {MAX_PAYLOAD_BYTES:,} with headers",
                hint="publish what changed and where to read the rest",
            )
        return row

    return encode


def declaration(cls: type[Any]) -> Declaration:
    """What `cls` declares. Raises SystemMistake when it is not an event that can be published."""
    found: Declaration | None = getattr(cls, "__atoll_event__", None)
    if found is None:
        raise SystemMistake(
            f"{cls.__qualname__} can't be published: it is not an Event with a name",
            hint=f'class {cls.__name__}(Event, name="…", key="…")',
        )
    return found


def _traceparent() -> str:
    trace = context.current()
    return context.child_of("") if trace is context.NOWHERE else trace.traceparent


def _declared(cls: type, found: Declaration) -> Declaration:
    fields = cls.__struct_fields__  # type: ignore[attr-defined]
    if not _NAME.match(found.name):
        raise SystemMistake(
            f"{cls.__qualname__}: {found.name!r} is no event name", hint="lower case, digits and underscores: order_placed"
        )
    if found.key not in fields:
        raise SystemMistake(
            f"{cls.__qualname__}: key={found.key!r} is none of its fields",
            hint=f"the key is the field whose order matters, one of: {', '.join(fields) or 'it has none'}",
        )
    if not 1 <= found.partitions <= 256:
        raise SystemMistake(f"{cls.__qualname__}: partitions={found.partitions} is not between 1 and 256")
    return found
