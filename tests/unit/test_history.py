"""How consumers stand to an event, as their databases say."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.database import open_database
from atoll.database.ports import Database, Parked
from atoll.delivery.envelope import encode, new_id
from atoll.host.history import Event, History, Places
from atoll.system.plan import BusPlan, BusService, BusSource
from tests.support.ports import free_port

PLAN = BusPlan(
    (BusService("orders", {"order_placed": 1}), BusService("inventory", {}, (BusSource("orders", ("order_placed",)),)))
)


@pytest.fixture
async def inventory(tmp_path: Path) -> AsyncIterator[Database]:
    database = open_database(f"sqlite://{tmp_path}/inventory.sqlite", None)
    await database.open()
    await database.migrate(None)
    yield database
    await database.close()


@pytest.fixture
def history(tmp_path: Path, inventory: Database) -> History:
    """Of a system whose publisher has no database, and whose bus is gone."""
    urls = {"inventory": f"sqlite://{tmp_path}/inventory.sqlite"}
    port = free_port()
    return History(
        Places(PLAN, lambda name: urls.get(name, ""), lambda name: f"nats://{name}:x@127.0.0.1:{port}"), connect_s=0.1
    )


def parked(id: str, **changes: object) -> Parked:
    row = encode("orders", "order_placed", "7", b"{}")
    found = {"source": "orders", "type": "orders.order_placed", "key": "7", "sequence": 3, "attempts": 6, "due_at": 0.0}
    return Parked(**{**found, "id": id, "headers": row.headers, "body": b"{}", **changes})  # type: ignore[arg-type]


async def asked(history: History, id: str) -> Event:
    event = await history.event(id, time.time())
    assert event is not None
    return event


async def test_a_dead_letter_is_told_with_its_error_though_the_bus_is_gone(history: History, inventory: Database) -> None:
    id = new_id()
    async with inventory.transaction() as tx:
        await inventory.journal.park(tx, parked(id, state="dead", error="ValueError: no such shelf"))

    (delivered,) = (await asked(history, id)).deliveries

    assert (delivered.consumer, delivered.state, delivered.attempts) == ("inventory", "dead", 6)
    assert delivered.error == "ValueError: no such shelf"
    assert "the stream of orders: the bus does not answer" in history.silent


async def test_one_that_was_never_tried_queues_behind_another_of_its_key(history: History, inventory: Database) -> None:
    id = new_id()
    async with inventory.transaction() as tx:
        await inventory.journal.park(tx, parked(id, attempts=0))

    assert (await asked(history, id)).deliveries[0].state == "queued"


async def test_one_that_no_stream_has_any_more_is_found_in_the_inbox(history: History, inventory: Database) -> None:
    id = new_id()
    lease = await inventory.journal.take_lease("orders", "inventory-1", 10.0)
    assert lease is not None
    async with inventory.transaction(patient=True) as tx:
        await inventory.journal.advance(tx, lease, 3, [id])

    event = await asked(history, id)

    assert (event.where, event.deliveries[0].state) == ("gone", "handled")


async def test_an_event_that_nobody_knows_is_none(history: History) -> None:
    assert await history.event(new_id(), time.time()) is None
