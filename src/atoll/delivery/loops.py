"""The relay and the consumers of one service process, started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

import msgspec

from atoll.bus.ports import Bus
from atoll.database.ports import Database
from atoll.delivery.consumer import Consumer, Work
from atoll.delivery.handling import Handlers, Patience, Watch
from atoll.delivery.leases import Leases
from atoll.delivery.relay import Relay
from atoll.errors import DatabaseOutage
from atoll.system.budgets import BUDGETS

__all__ = ["Loops", "Station"]

_log = logging.getLogger("atoll.delivery")
_TIDY_EVERY_S = 3600.0
_CANCEL_AGAIN_S = 0.1


class Station(msgspec.Struct, frozen=True):
    """Where a service process stands: its database, its end of the bus, and `owner`, the replica slot's stable name."""

    service: str
    owner: str
    database: Database
    bus: Bus
    watch: Watch | None = None


class Loops:
    """`start` returns at once; the loops wait for database and bus by themselves and outlive their outages."""

    def __init__(self, station: Station, handlers: Handlers, patience: Patience | None = None) -> None:
        self._journal = station.database.journal
        self._leases = Leases(self._journal, station.owner, BUDGETS.lease_s)
        self._relay = Relay(station.service, self._journal, station.bus, self._leases, station.watch)
        self._consumers = [
            Consumer(station.bus.source(source, station.service), station.database, work, self._leases)
            for source, own in _by_source(handlers).items()
            for work in [Work(own, patience or Patience(), station.watch)]
        ]
        self._tasks: list[asyncio.Task[None]] = []
        station.database.on_published(self._relay.wake)

    def start(self) -> None:
        loops: list[Coroutine[Any, Any, None]] = [self._leases.run(), self._relay.run(), self._tidy()]
        for loop in [*loops, *(consumer.run() for consumer in self._consumers)]:
            task = asyncio.create_task(loop)
            task.add_done_callback(_report)
            self._tasks.append(task)

    def behind(self) -> dict[str, int]:
        """Events that wait for this process, by stream."""
        return dict(one for consumer in self._consumers if (one := consumer.behind))

    async def stop(self, timeout_s: float = BUDGETS.drain_s) -> None:
        """Consumers finish the batch in hand, the outbox is emptied if the bus is there, the leases are released."""
        for consumer in self._consumers:
            consumer.stop()
        running = self._tasks[3:]
        if running:
            await asyncio.wait(running, timeout=timeout_s)
        await self._relay.wait_empty(min(1.0, timeout_s))
        await _end(self._tasks)
        await self._leases.release()

    async def _tidy(self) -> None:
        """Forgets inbox ids that no redelivery can bring back, and answers that nobody asks for again."""
        while True:
            with contextlib.suppress(DatabaseOutage):
                await self._journal.forget_inbox(BUDGETS.inbox_kept_s)
                await self._journal.forget_answers(BUDGETS.answers_kept_s)
            await asyncio.sleep(_TIDY_EVERY_S)


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancels until they are gone: pymongo swallows about one cancellation in ten."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _done, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)


def _by_source(handlers: Handlers) -> dict[str, Handlers]:
    found: dict[str, dict[str, Any]] = {}
    for type_, handler in handlers.items():
        found.setdefault(type_.split(".", 1)[0], {})[type_] = handler
    return dict(found)


def _report(task: asyncio.Task[None]) -> None:
    """A loop never ends by an exception of its own; if one does, that is our bug and must be seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("a delivery loop ended: %r", error, exc_info=error)
