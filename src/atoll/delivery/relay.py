"""The relay: moves outbox rows to the bus, in order, and deletes them once the bus has acknowledged.

One relay works per database, the one that holds the lease "outbox". A relay that dies between acknowledgement and deletion
publishes the same rows again: the bus drops repeats for 30 s, consumers' inboxes for 7 days.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

from atoll.bus.ports import Bus, Message, Received
from atoll.database.ports import Journal, OutboxRow
from atoll.delivery.complaints import Complaints
from atoll.delivery.envelope import age_s
from atoll.delivery.faults import FAULTS
from atoll.delivery.handling import Watch
from atoll.delivery.leases import Leases
from atoll.system.budgets import BUDGETS

__all__ = ["OUTBOX", "Relay"]

OUTBOX = "outbox"
_SWEEP_S = 0.25
_LINGER_S = 0.005
_BUSY_S = 0.010
_STALE_AFTER_S = BUDGETS.inbox_kept_s

_log = logging.getLogger("atoll.delivery")


class Relay:
    """`wake` after a commit, `run` until cancelled. Wake-ups of other replicas come over the bus and may be lost."""

    def __init__(self, service: str, journal: Journal, bus: Bus, leases: Leases, watch: Watch | None = None) -> None:
        self._subject = f"wake.{service}"
        self._journal = journal
        self._bus = bus
        self._leases = leases
        self._watch = watch
        self._woken = asyncio.Event()
        self._moved_at = 0.0
        self._idle = asyncio.Event()

    def wake(self) -> None:
        """There are new rows. Cheap: called after every commit that published."""
        if self._leases.holds(OUTBOX):
            self._woken.set()
        else:
            self._bus.send(self._subject)

    async def run(self) -> None:
        end = self._bus.subscribe(self._subject, self._on_wake)
        end_connected = self._bus.on_connected(self._woken.set)
        pause_s, complaints = 0.05, Complaints()
        try:
            while True:
                try:
                    await self._leases.take(OUTBOX)
                    await self._move_while_held()
                    pause_s = 0.05
                except Exception as error:
                    self._leases.drop(OUTBOX)
                    complaints.about("the relay", error)
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                    pause_s = min(1.0, pause_s * 2)
        finally:
            end()
            end_connected()

    async def wait_empty(self, timeout_s: float) -> bool:
        """True when the outbox was seen empty within `timeout_s`. False at once where another replica's relay works."""
        if not self._leases.holds(OUTBOX):
            return False
        self._idle.clear()
        self._woken.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _on_wake(self, _message: Received) -> None:
        self._woken.set()

    async def _move_while_held(self) -> None:
        while self._leases.holds(OUTBOX):
            self._woken.clear()
            await self._linger()
            rows = await self._journal.outbox(BUDGETS.batch_events)
            if rows and age_s(rows[0].id) > _STALE_AFTER_S:
                await self._hold(rows[0])
            elif rows:
                await self._move(rows)
            else:
                self._idle.set()
                await self._wait()

    async def _linger(self) -> None:
        """At once when idle; under load a little later, so that one batch carries many events."""
        if time.monotonic() - self._moved_at < _BUSY_S:
            await asyncio.sleep(_LINGER_S)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_SWEEP_S):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _hold(self, row: OutboxRow) -> None:
        """Inboxes may have forgotten an event this old: publishing it could count it twice, dropping it would lose it."""
        _log.error(
            "the relay has stopped: event %s (%s) is older than the %d days for which inboxes remember; "
            "delete its outbox row if it was published before, or give it a new id to publish it now",
            row.id,
            row.subject,
            _STALE_AFTER_S // 86_400,
        )
        await asyncio.sleep(60)

    async def _move(self, rows: list[OutboxRow]) -> None:
        if not self._bus.connected and not await self._bus.wait_connected(1.0):
            return
        start_ns = time.time_ns()
        await self._bus.publish([Message(row.subject, row.headers, row.body) for row in rows], BUDGETS.publish_ack_s)
        FAULTS.reached("relay.published")
        await self._journal.remove_outbox(rows)
        self._moved_at = time.monotonic()
        if self._watch is not None:
            self._watch.published(rows, start_ns)
