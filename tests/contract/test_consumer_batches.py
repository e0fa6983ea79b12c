"""How a consumer cuts a stream into transactions, and when it tries again what failed. On SQLite and the memory bus.

Commits are counted by the database: a trigger writes down every position that the cursor takes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from atoll.bus.memory import Broker
from atoll.bus.ports import Bus, Message
from atoll.database import open_database
from atoll.database.ports import Database
from atoll.delivery import consumer, envelope
from atoll.delivery.handling import Delivery, Handler, Patience
from atoll.delivery.loops import Loops, Station
from atoll.system.budgets import BUDGETS
from tests.support.waiting import until

PAUSE_S = 1000.0


@dataclass
class Stock:
    """Handles orders.counted with `handle`."""

    database: Database
    bus: Bus
    handle: Callable[[dict[str, Any]], None] = lambda event: None

    async def count(self, body: bytes, _delivery: Delivery, tx: Any) -> None:
        event = json.loads(body)
        await tx.execute("INSERT INTO handled (n) VALUES ($1)", event["n"])
        self.handle(event)

    async def events(self, count: int) -> None:
        rows = [envelope.encode("orders", "counted", f"k{n}", json.dumps({"n": n}).encode()) for n in range(count)]
        await self.bus.publish([Message(row.subject, row.headers, row.body) for row in rows])

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        handlers = {"orders.counted": Handler(self.count)}
        patience = Patience(attempts=6, after_failure_s=(PAUSE_S,))
        loops = Loops(Station("stock", "stock-1", self.database, self.bus), handlers, patience)
        loops.start()
        try:
            yield
        finally:
            await loops.stop()

    async def scalar(self, sql: str) -> Any:
        async with self.database.reader() as reader:
            return await reader.scalar(sql)

    async def batches(self, count: int) -> list[int]:
        """How many events each transaction had, once `count` were handled."""

        async def done() -> bool:
            return bool(await self.scalar("SELECT count(*) FROM handled") == count)

        async with self.working():
            await until(done, 20, f"{count} events are handled")
        async with self.database.reader() as reader:
            positions = [row["sequence"] for row in await reader.all(dict, "SELECT sequence FROM committed ORDER BY rowid")]
            handled = [row["n"] for row in await reader.all(dict, "SELECT n FROM handled ORDER BY rowid")]
        assert handled == list(range(count)), "every event once, in order"
        return [after - before for before, after in itertools.pairwise([0, *positions]) if after != before]


@pytest.fixture
async def stock(tmp_path: Path) -> AsyncIterator[Stock]:
    database = open_database(f"sqlite://{tmp_path}/stock.sqlite", None)
    await database.open()
    await database.migrate(None)
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE handled (n INTEGER NOT NULL)")
        await tx.execute("CREATE TABLE committed (sequence INTEGER NOT NULL)")
        await tx.execute(
            """CREATE TRIGGER watch AFTER UPDATE OF sequence ON atoll_cursor
            BEGIN INSERT INTO committed (sequence) VALUES (new.sequence); END"""
        )
    broker = Broker()
    broker.add_stream("orders", "event.orders.>")
    broker.add_durable("orders", "stock")
    broker.add_stream("stock", "event.stock.>")
    bus = broker.bus()
    await bus.start()
    yield Stock(database, bus)
    await bus.close()
    await database.close()


def busy_for(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def test_a_transaction_has_256_events_at_most_however_many_wait(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "BUDGETS", msgspec.structs.replace(BUDGETS, batch_s=30.0))  # time shall not be the reason
    await stock.events(600)
    assert await stock.batches(600) == [256, 256, 88]


async def test_a_slow_handler_has_each_event_committed_as_soon_as_20_ms_are_over(stock: Stock) -> None:
    stock.handle = lambda event: busy_for(0.025)
    await stock.events(12)
    assert await stock.batches(12) == [1] * 12


async def test_a_transaction_takes_what_fits_into_20_ms_and_one_event_more(stock: Stock) -> None:
    stock.handle = lambda event: busy_for(0.008)
    await stock.events(30)
    batches = await stock.batches(30)
    assert max(batches) <= 3
    assert len(batches) < 30, "quick events share a transaction"


async def test_the_pause_before_the_next_try_varies_by_a_fifth_so_that_not_all_come_back_at_once(stock: Stock) -> None:
    random.seed(20)
    began_at = time.time()

    def fail(event: dict[str, Any]) -> None:
        raise ValueError("not now")

    stock.handle = fail
    await stock.events(40)

    async def all_parked() -> Any:
        parked = await stock.database.journal.parked("waiting")
        return parked if len(parked) == 40 else None

    async with stock.working():
        parked = await until(all_parked, 20)
    ended_at = time.time()
    dues = [event.due_at for event in parked]
    assert min(dues) >= began_at + 0.8 * PAUSE_S
    assert max(dues) <= ended_at + 1.2 * PAUSE_S
    assert max(dues) - min(dues) > 0.3 * PAUSE_S, "spread over the whole of it"
    assert {event.attempts for event in parked} == {1}
