"""What a consumer needs to know of the code that handles events. Frozen data; the service room fills it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from atoll.database.ports import OutboxRow
from atoll.delivery.envelope import Envelope
from atoll.system.budgets import BUDGETS

__all__ = ["Delivery", "Handler", "Handlers", "Patience", "Watch"]


class Delivery(msgspec.Struct, frozen=True):
    """What a handler may ask about the event in hand.

    `id` is the same at every attempt: use it as the key of an effect outside the database. `attempt` counts from 1.
    `type` is `<service>.<name>`, `source` the stream (the publisher's name), `time` RFC 3339.
    """

    id: str
    type: str
    source: str
    key: str
    time: str
    attempt: int = 1
    traceparent: str = ""

    @classmethod
    def of(cls, envelope: Envelope, source: str, attempt: int) -> Delivery:
        return cls(
            id=envelope.id,
            type=envelope.type,
            source=source,
            key=envelope.key,
            time=envelope.time,
            attempt=attempt,
            traceparent=envelope.traceparent,
        )


class Handler(msgspec.Struct, frozen=True):
    """How one type of event is handled: `invoke(body, delivery, tx)` returns, or raises to fail.

    `alone`: one event per transaction, because it has an effect outside the database.
    """

    invoke: Callable[[bytes, Delivery, Any], Awaitable[None]]
    alone: bool = False


class Patience(msgspec.Struct, frozen=True):
    """How long to wait before the next try, in seconds, by how many went before; the last entry stands for all later ones.

    `attempts` tries make an event a dead letter; an outage has no last try.
    """

    attempts: int = BUDGETS.attempts
    after_failure_s: tuple[float, ...] = (0.2, 1.0, 5.0, 15.0, 60.0)
    after_outage_s: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

    def pause_s(self, tries: int, *, outage: bool) -> float:
        """The pause after try number `tries`, from 1."""
        steps = self.after_outage_s if outage else self.after_failure_s
        return steps[min(tries, len(steps)) - 1]


class Watch(Protocol):
    """Who is told what became of events. Cheap, and never raises: it is told between a commit and its acknowledgement."""

    def published(self, rows: Sequence[OutboxRow], start_ns: int) -> None:
        """The bus has acknowledged them; sending began at `start_ns` (epoch)."""
        ...

    def committed(self, ids: Sequence[str]) -> None:
        """Handled for good."""
        ...

    def failed(self, id: str, error: Exception) -> None:
        """Parked, to be tried again or as a dead letter."""
        ...


Handlers = Mapping[str, Handler]
"""By type, `<service>.<name>`."""
