"""What became of an event, and of the events of a trace: looked up where they lie, in databases and streams. Changes nothing.

An event is in its publisher's outbox until the bus has it, then in a stream, and each consumer has it in its inbox, or parked,
or not yet. (A dead letter that was discarded is in the inbox like one that was handled.) Streams are searched by header from
the moment at which the event was made, at most `SCANNED` messages of each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Received
from atoll.database import open_database
from atoll.database.ports import Database, Parked
from atoll.delivery.envelope import Envelope, decode
from atoll.errors import AtollError, BusOutage, DatabaseOutage
from atoll.system.plan import BusPlan

__all__ = ["SCANNED", "Delivered", "Event", "History", "Places"]

SCANNED = 20_000
_PAGE = 500
_OUTBOX_ROWS = 5_000
# Clocks of the bus and of services need not agree; databases commit a moment after an id was made.
_EARLIER_S = 10.0

State = Literal["handled", "waiting", "queued", "dead", "not yet", "unknown"]


@dataclass(frozen=True, slots=True)
class Delivered:
    """How one consumer stands to an event. `at` is when it was handled, or when it is tried again (epoch s)."""

    consumer: str
    state: State
    at: float | None = None
    attempts: int = 0
    error: str = ""
    behind: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """`sequence` is its place in the publisher's stream; None while it waits in the outbox and when no stream has it."""

    envelope: Envelope
    where: Literal["outbox", "stream", "gone"]
    sequence: int | None = None
    deliveries: tuple[Delivered, ...] = ()


@dataclass(frozen=True)
class Places:
    """Where to look. `database_url` gives "" for a service without a database, or one that is down."""

    plan: BusPlan
    database_url: Callable[[str], str]
    bus_url: Callable[[str], str]


@dataclass
class History:
    """`silent` collects what could not be asked, for a person. A bus that does not answer within `connect_s` is not asked."""

    places: Places
    connect_s: float = 5.0
    silent: list[str] = field(default_factory=list)

    async def event(self, id: str, since: float) -> Event | None:
        """The event of that id, made at `since` (epoch s) or a little later."""
        mark = f"ce-id: {id}\r\n".encode()
        found = await self._search(mark, since, most=1)
        if found:
            return (await self._with_deliveries(found))[0]
        gone = Event(Envelope(id, "", "", "", ""), "gone")
        deliveries = await self._deliveries(gone, [service.name for service in self.places.plan.services])
        known = tuple(one for one in deliveries if one.state in ("handled", "waiting", "queued", "dead"))
        return Event(gone.envelope, "gone", deliveries=known) if known else None

    async def trace(self, trace_id: str, since: float) -> list[Event]:
        """All events of a trace that began at `since`, in the order in which they were made."""
        found = await self._search(f"traceparent: 00-{trace_id}-".encode(), since, most=1000)
        return sorted(await self._with_deliveries(found), key=lambda event: event.envelope.id)

    # where events lie

    async def _search(self, mark: bytes, since: float, most: int) -> list[Event]:
        publishers = [service.name for service in self.places.plan.services if service.publishes]
        found = await asyncio.gather(
            *(self._in_outbox(name, mark) for name in publishers),
            *(self._in_stream(name, mark, since, most) for name in publishers),
        )
        events = {event.envelope.id: event for events in found for event in events}
        return list(events.values())[:most]

    async def _in_outbox(self, service: str, mark: bytes) -> list[Event]:
        try:
            async with self._database(service) as database:
                rows = await database.journal.outbox(_OUTBOX_ROWS) if database else []
        except DatabaseOutage as outage:
            self._missed(service, outage)
            return []
        return [Event(decode(row.headers), "outbox") for row in rows if mark in row.headers]

    async def _in_stream(self, service: str, mark: bytes, since: float, most: int) -> list[Event]:
        moment = datetime.fromtimestamp(since - _EARLIER_S, UTC).isoformat().replace("+00:00", "Z")
        found: list[Event] = []
        start: dict[str, Any] = {"start_time": moment}
        try:
            async with self._bus(service) as bus:
                for _ in range(SCANNED // _PAGE):
                    page = await bus.stored(service, {"batch": _PAGE, "next_by_subj": ">", **start})
                    found += [_published(one) for one in page if mark in one.headers + b"\r\n"]
                    if len(page) < _PAGE or len(found) >= most:
                        return found
                    start = {"seq": page[-1].sequence + 1}
        except BusOutage as outage:
            self.silent.append(f"the stream of {service}: {outage.detail}")
            return found
        self.silent.append(f"the stream of {service} beyond the {SCANNED:,} messages after {moment}")
        return found

    # how consumers stand to them

    async def _with_deliveries(self, events: Iterable[Event]) -> list[Event]:
        consumers = self.places.plan.consumers
        found = []
        for event in events:
            publisher, _, name = event.envelope.type.partition(".")
            wanted = [one for one, source in consumers.get(publisher, {}).items() if name in source.events]
            deliveries = await self._deliveries(event, wanted)
            found.append(Event(event.envelope, event.where, event.sequence, deliveries))
        return found

    async def _deliveries(self, event: Event, consumers: Iterable[str]) -> tuple[Delivered, ...]:
        return tuple(await asyncio.gather(*(self._delivered(event, name) for name in consumers)))

    async def _delivered(self, event: Event, consumer: str) -> Delivered:
        try:
            async with self._database(consumer) as database:
                if database is None:
                    return Delivered(consumer, "unknown")
                return await _standing(database, consumer, event)
        except DatabaseOutage as outage:
            self._missed(consumer, outage)
            return Delivered(consumer, "unknown", error=outage.detail)

    def _missed(self, service: str, outage: AtollError) -> None:
        text = f"the database of {service}: {outage.detail}"
        if text not in self.silent:
            self.silent.append(text)

    @asynccontextmanager
    async def _database(self, service: str) -> AsyncIterator[Database | None]:
        url = self.places.database_url(service)
        if not url:
            yield None
            return
        database = open_database(url, None)
        await database.open()
        try:
            yield database
        finally:
            await database.close()

    @asynccontextmanager
    async def _bus(self, service: str) -> AsyncIterator[JetStreamBus]:
        bus = JetStreamBus(self.places.bus_url(service), name="explain")
        await bus.start()
        try:
            if not await bus.wait_connected(self.connect_s):
                raise BusOutage("the bus does not answer")
            yield bus
        finally:
            await bus.close()


def _published(message: Received) -> Event:
    return Event(decode(message.headers), "stream", message.sequence)


async def _standing(database: Database, consumer: str, event: Event) -> Delivered:
    journal, id = database.journal, event.envelope.id
    if (parked := await journal.parked_event(id)) is not None:
        return _parked(consumer, parked)
    if (at := await journal.handled_at(id)) is not None:
        return Delivered(consumer, "handled", at)
    if event.where != "stream":
        return Delivered(consumer, "not yet")
    position = await journal.position(event.envelope.type.partition(".")[0]) or 0
    return Delivered(consumer, "not yet", behind=max(0, (event.sequence or 0) - position))


def _parked(consumer: str, parked: Parked) -> Delivered:
    """One that was never tried queues behind an earlier event of its key."""
    state: State = "dead" if parked.state == "dead" else "waiting" if parked.attempts or parked.error else "queued"
    return Delivered(consumer, state, parked.due_at or None, parked.attempts, parked.error)


def plain(event: Event) -> Mapping[str, Any]:
    """As JSON has it."""
    envelope = event.envelope
    return {
        **{name: getattr(envelope, name) for name in ("id", "type", "key", "time", "traceparent")},
        "where": event.where,
        "sequence": event.sequence,
        "deliveries": [{name: getattr(one, name) for name in Delivered.__slots__} for one in event.deliveries],
    }
