"""The consumer: exactly-once effects, in order per key, from a bus that may deliver again.

One consumer works per source and database: the one that holds the source's lease, which is also its cursor. A batch is one
transaction of inbox ids, effects, outbox rows and the cursor; only after its commit is the bus told. An event that fails
is parked with its exception and later events of its key queue behind it, while all others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from atoll.bus.ports import Interrupted, Received, Source
from atoll.database.ports import Database, Lease, LeaseLost, Parked
from atoll.delivery.complaints import Complaints
from atoll.delivery.envelope import Envelope, decode
from atoll.delivery.faults import FAULTS
from atoll.delivery.handling import Delivery, Handlers, Patience, Watch
from atoll.delivery.leases import Leases
from atoll.errors import DatabaseOutage, Outage
from atoll.system.budgets import BUDGETS

__all__ = ["Consumer", "Work"]

_log = logging.getLogger("atoll.delivery")
_LOOK_AGAIN_S = 1.0
_LONGEST_PAUSE_S = 1.0


class _Event(msgspec.Struct, frozen=True):
    """A received event with its envelope opened; `attempts` are those already counted."""

    envelope: Envelope
    headers: bytes
    body: bytes
    sequence: int
    attempts: int = 0


class Work(msgspec.Struct, frozen=True):
    """What a consumer does with the events of its source."""

    handlers: Handlers
    patience: Patience = msgspec.field(default_factory=Patience)
    watch: Watch | None = None


class _Failed(Exception):
    """A batch was rolled back because of event number `index`; None when it failed as a whole, at its end."""

    def __init__(self, index: int | None, error: Exception) -> None:
        super().__init__(index)
        self.index = index
        self.error = error


class Consumer:
    """`run` until cancelled; a batch in hand is finished or rolled back, never half done."""

    def __init__(self, source: Source, database: Database, work: Work, leases: Leases) -> None:
        self._name = source.stream
        self._source = source
        self._database = database
        self._journal = database.journal
        self._handlers = work.handlers
        self._patience = work.patience
        self._watch = work.watch
        self._leases = leases
        self._parked_keys: set[str] = set()
        self._due_at: float | None = None
        self._outages: dict[str, int] = {}
        self._complaints = Complaints()
        self._excused: dict[str, int] = {}
        self._last_epoch: int | None = None
        self._stopping = asyncio.Event()
        self._pulling: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        pause_s = 0.02
        while not self._stopping.is_set():
            try:
                await self._consume(await self._leases.take(self._name))
                pause_s = 0.02
            except LeaseLost:
                self._leases.drop(self._name)
            except Interrupted:
                pause_s = 0.02
            except Exception as error:
                self._leases.drop(self._name)
                self._complaints.about(f"the consumer of {self._name}", error)
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    @property
    def behind(self) -> tuple[str, int] | None:
        """The stream and how many of its events wait, as far as is known; None while another replica consumes it."""
        return (self._name, self._source.behind) if self._leases.holds(self._name) else None

    def stop(self) -> None:
        """`run` ends after the batch in hand."""
        self._stopping.set()
        if self._pulling is not None:
            self._pulling.cancel()

    async def _pull(self) -> list[Received]:
        """What has arrived. Waiting is the one moment at which `stop` may cut in: nothing is in hand."""
        self._pulling = asyncio.current_task()
        try:
            return await self._source.pull(BUDGETS.batch_events, self._wait_s())
        finally:
            self._pulling = None

    async def _consume(self, lease: Lease) -> None:
        careful = BUDGETS.batch_events if self._somebody_died(lease) else 0
        lease = await self._take_position(lease)
        await self._look_at_parked()
        looked_at = time.monotonic()
        while self._leases.holds(self._name) and not self._stopping.is_set():
            if time.monotonic() - looked_at > _LOOK_AGAIN_S:
                await self._look_at_parked()
                looked_at = time.monotonic()
            lease = await self._retry_due(lease)
            events = await self._pull()
            if not events:
                continue
            if careful > 0:
                lease = await self._carefully(lease, self._open(events))
                careful -= len(events)
            else:
                lease = await self._batches(lease, self._open(events))
            self._source.acknowledge(lease.sequence)

    def _somebody_died(self, lease: Lease) -> bool:
        """Whether the last holder may have gone with events in hand. This process itself, after an outage, has not."""
        own = self._last_epoch is not None and lease.epoch == self._last_epoch + 1
        self._last_epoch = lease.epoch
        return not lease.released and not own

    async def _take_position(self, lease: Lease) -> Lease:
        """The bus stands behind the cursor afterwards. A wiped or restored stream is read from its start: the inbox knows."""
        position = await self._source.reset(lease.sequence + 1)
        if position.identity == lease.identity and position.last_sequence >= lease.sequence:
            return lease
        if lease.identity:
            _log.error(
                "the stream %s was replaced (it ends at %d, the cursor stood at %d): reading it from its start; events that "
                "the old stream held after %d and nobody had read can't be delivered again",
                self._name,
                position.last_sequence,
                lease.sequence,
                lease.sequence,
            )
        lease = await self._journal.restart_cursor(lease, position.identity, 0)
        self._leases.moved(lease)
        await self._source.reset(1)
        return lease

    def _open(self, events: Sequence[Received]) -> list[_Event]:
        """Envelopes of what can be read; the rest is logged: nothing in it could be handled, now or later."""
        opened = []
        for event in events:
            try:
                envelope = decode(event.headers)
            except ValueError as error:
                _log.error("event %d of %s is ignored: %s", event.sequence, self._name, error)
                envelope = Envelope(id=f"{self._name}-{event.sequence}", type="", source="", key="", time="")
            opened.append(_Event(envelope, event.headers, event.body, event.sequence))
        return opened

    # batches

    async def _batches(self, lease: Lease, events: Sequence[_Event]) -> Lease:
        """All of `events`, in as few transactions as the budget and `alone` handlers allow."""
        start = 0
        while start < len(events):
            end = start + 1 if self._alone(events[start]) else self._shared_until(events, start)
            lease, start = await self._try_batch(lease, events, start, end)
            self._leases.moved(lease)
        return lease

    async def _carefully(self, lease: Lease, events: Sequence[_Event]) -> Lease:
        """One by one, each attempt committed first: one of them may have killed the process that had them in hand."""
        seen = await self._seen_before([event.envelope.id for event in events])
        for event in events:
            if event.envelope.type in self._handlers and not self._queues(event) and event.envelope.id not in seen:
                event = replace(event, attempts=await self._begin_attempt(event.envelope.id))
                if event.attempts >= self._patience.attempts:
                    lease = await self._park(lease, event, _died(event.attempts))
                    continue
            with self._excusing_outages(event.envelope.id):
                lease, _ = await self._try_batch(lease, [event], 0, 1)
            self._leases.moved(lease)
        return lease

    async def _begin_attempt(self, id: str) -> int:
        """How many tries before this one ended with the process."""
        return await self._journal.begin_attempt(self._name, id) - 1 - self._excused.get(id, 0)

    @contextlib.contextmanager
    def _excusing_outages(self, id: str) -> Iterator[None]:
        """A try that the database broke off was begun, but it is nobody's fault and never counts."""
        try:
            yield
        except (DatabaseOutage, LeaseLost):
            self._excused[id] = self._excused.get(id, 0) + 1
            raise
        self._excused.pop(id, None)

    def _alone(self, event: _Event) -> bool:
        handler = self._handlers.get(event.envelope.type)
        return handler is not None and handler.alone

    def _shared_until(self, events: Sequence[_Event], start: int) -> int:
        end = start
        while end < len(events) and not self._alone(events[end]):
            end += 1
        return end

    async def _try_batch(self, lease: Lease, events: Sequence[_Event], start: int, end: int) -> tuple[Lease, int]:
        """Commits events from `start`, as many as the time budget allows; a failing one ends its batch and is parked.

        A batch that fails at its end does not say whose fault it is (a caught error, a deferred check): halve and see.
        """
        try:
            return await self._commit_batch(lease, events, start, end)
        except _Failed as failed:
            good_until = start + (end - start) // 2 if failed.index is None else failed.index
            if good_until > start:
                return await self._try_batch(lease, events, start, good_until)
            return await self._park(lease, events[start], failed.error), start + 1

    async def _commit_batch(self, lease: Lease, events: Sequence[_Event], start: int, end: int) -> tuple[Lease, int]:
        alone = self._alone(events[start])
        ids = [event.envelope.id for event in events[start:end]]
        seen = await self._seen_before(ids) if alone else set[str]()
        async with self._transaction(patient=not alone) as tx:
            if not alone and FAULTS.inbox:
                seen = await self._journal.seen(tx, ids)
            handled, index = await self._handle_until_late(tx, events[:end], start, seen)
            lease = await self._journal.advance(tx, lease, events[index - 1].sequence, handled if FAULTS.inbox else [])
        FAULTS.reached("consumer.committed")
        if self._watch is not None:
            self._watch.committed(handled)
        return lease, index

    async def _handle_until_late(self, tx: Any, events: Sequence[_Event], start: int, seen: set[str]) -> tuple[list[str], int]:
        """(ids handled, index after the last event looked at): at least one, then as many as the time budget allows."""
        stop_at = time.monotonic() + BUDGETS.batch_s
        handled: list[str] = []
        index = start
        while index < len(events) and (index == start or time.monotonic() < stop_at):
            id = events[index].envelope.id
            if id not in seen:
                await self._handle(tx, events[index], index)
                seen.add(id)
                handled.append(id)
            index += 1
        return handled, index

    @contextlib.asynccontextmanager
    async def _transaction(self, *, patient: bool) -> AsyncIterator[Any]:
        """One whose failure at its end is the failure of what was done in it."""
        try:
            async with self._database.transaction(patient=patient) as tx:
                yield tx
        except (_Failed, DatabaseOutage, LeaseLost):
            raise
        except Exception as error:
            raise _Failed(None, error) from error

    async def _seen_before(self, ids: Sequence[str]) -> set[str]:
        """Outside the transaction: a handler with an effect outside must not hold it while it waits."""
        if not FAULTS.inbox:
            return set()
        async with self._database.reader() as reader:
            return await self._journal.seen(reader, ids)

    def _queues(self, event: _Event) -> bool:
        """Whether an earlier event of its key is parked. An event without a key has no order to keep."""
        return bool(event.envelope.key) and event.envelope.key in self._parked_keys

    async def _handle(self, tx: Any, event: _Event, index: int, *, queue: bool = True) -> None:
        handler = self._handlers.get(event.envelope.type)
        if handler is None:
            return
        if queue and self._queues(event):
            await self._journal.park(tx, self._as_parked(event, due_at=0.0))
            return
        delivery = Delivery.of(event.envelope, self._name, event.attempts + 1)
        try:
            async with asyncio.timeout(BUDGETS.handler_s):
                await handler.invoke(event.body, delivery, tx)
        except (DatabaseOutage, LeaseLost):
            raise
        except Exception as error:
            raise _Failed(index, error) from error

    # parking

    async def _park(self, lease: Lease, event: _Event, error: Exception) -> Lease:
        """The failed event, its exception and the cursor move in one transaction."""
        parked = self._after_failure(event, error)
        async with self._database.transaction() as tx:
            await self._journal.park(tx, parked)
            lease = await self._journal.advance(tx, lease, max(event.sequence, lease.sequence), [event.envelope.id])
        self._parked_keys.add(event.envelope.key)
        if self._watch is not None:
            self._watch.failed(event.envelope.id, error)
        await self._look_at_due()
        return lease

    def _after_failure(self, event: _Event, error: Exception) -> Parked:
        outage = isinstance(error, Outage)
        attempts = event.attempts + (0 if outage else 1)
        dead = attempts >= self._patience.attempts
        tries = attempts
        if outage:
            tries = self._outages[event.envelope.id] = self._outages.get(event.envelope.id, 0) + 1
        pause_s = self._patience.pause_s(tries, outage=outage)
        _log.log(
            logging.ERROR if dead else logging.WARNING,
            "%s %s failed (%s), %s: %s",
            event.envelope.type,
            event.envelope.id,
            "an outage, not counted" if outage else f"attempt {attempts} of {self._patience.attempts}",
            "it is a dead letter now" if dead else f"next try in about {pause_s:g} s",
            _one_line(error),
            exc_info=None if outage else error,
        )
        parked = self._as_parked(event, due_at=time.time() + pause_s * random.uniform(0.8, 1.2))
        return replace(
            parked,
            attempts=attempts,
            state="dead" if dead else "waiting",
            error=_one_line(error),
            trace="".join(traceback.format_exception(error)),
        )

    def _as_parked(self, event: _Event, *, due_at: float) -> Parked:
        return Parked(
            id=event.envelope.id,
            source=self._name,
            type=event.envelope.type,
            key=event.envelope.key or event.envelope.id,
            sequence=event.sequence,
            headers=event.headers,
            body=event.body,
            attempts=event.attempts,
            due_at=due_at,
        )

    async def _retry_due(self, lease: Lease) -> Lease:
        """Tries the first parked event of every key that is due, until none is."""
        while self._due_at is not None and self._due_at <= time.monotonic() and not self._stopping.is_set():
            due = await self._journal.due(self._name, 64)
            for parked in due:
                lease = await self._retry(lease, parked)
                self._leases.moved(lease)
            await self._look_at_parked()
            if not due:
                break
        return lease

    async def _retry(self, lease: Lease, parked: Parked) -> Lease:
        attempts = parked.attempts + await self._begin_attempt(parked.id)
        event = _Event(decode(parked.headers), parked.headers, parked.body, parked.sequence, attempts)
        if attempts >= self._patience.attempts:
            return await self._park(lease, event, _died(attempts))
        with self._excusing_outages(parked.id):
            try:
                lease = await self._commit_retry(lease, event)
                self._outages.pop(parked.id, None)
            except _Failed as failed:
                lease = await self._park(lease, event, failed.error)
        return lease

    async def _commit_retry(self, lease: Lease, event: _Event) -> Lease:
        async with self._transaction(patient=not self._alone(event)) as tx:
            await self._handle(tx, event, 0, queue=False)
            await self._journal.unpark(tx, event.envelope.id)
            lease = await self._journal.advance(tx, lease, lease.sequence, [event.envelope.id])
        if self._watch is not None:
            self._watch.committed([event.envelope.id])
        return lease

    async def _look_at_parked(self) -> None:
        self._parked_keys = await self._journal.parked_keys(self._name)
        await self._look_at_due()

    async def _look_at_due(self) -> None:
        due_in_s = await self._journal.next_due_in(self._name) if self._parked_keys else None
        self._due_at = None if due_in_s is None else time.monotonic() + due_in_s

    def _wait_s(self) -> float:
        """Until a parked event is due, but look around once a second: dead letters are retried from outside."""
        if self._due_at is None:
            return _LOOK_AGAIN_S
        return max(0.0, min(_LOOK_AGAIN_S, self._due_at - time.monotonic()))


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _died(attempts: int) -> Exception:
    return RuntimeError(f"the process died {attempts} times while it handled this event")
