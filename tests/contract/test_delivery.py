"""Delivery on every kind of database and the memory bus: what is promised on order, repeats, failures and paused holders."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from atoll.bus.memory import Broker
from atoll.bus.ports import Message
from atoll.database.ports import Database, Kept, LeaseLost, OutboxRow
from atoll.delivery import dead_letters, envelope, loops
from atoll.delivery.handling import Delivery, Handler, Patience
from atoll.delivery.loops import Loops, Station
from atoll.errors import DatabaseOutage, Outage
from atoll.system.budgets import BUDGETS
from tests.support.kinds import Kind
from tests.support.waiting import until

IMPATIENT = Patience(attempts=3, after_failure_s=(0.01,), after_outage_s=(0.01,))


def encode(event: Any) -> OutboxRow:
    """Events of this file are `{"key", "n"}` of type orders.counted."""
    return envelope.encode("orders", "counted", event["key"], json.dumps(event).encode())


class World:
    """Stock, which consumes orders.counted and writes down what it did, and orders, which is only its stream."""

    def __init__(self, kind: Kind, database: Database, broker: Broker) -> None:
        self.kind = kind
        self.database = database
        self.broker = broker
        self.bus = broker.bus()
        self.sent = 0
        self.fail: Callable[[dict[str, Any]], Exception | None] = lambda event: None
        self.deliveries: list[Delivery] = []
        self.spoils: str = ""

    def event(self, key: str, n: int) -> Message:
        row = encode({"key": key, "n": n})
        return Message(row.subject, row.headers, row.body)

    async def send(self, *messages: Message) -> None:
        await self.bus.publish(messages)

    async def count(self, body: bytes, delivery: Delivery, tx: Any) -> None:
        event = json.loads(body)
        self.deliveries.append(delivery)
        await self.kind.insert(tx, event["key"], event["n"])
        if event["key"] == self.spoils:
            with contextlib.suppress(Exception):  # what people do: PostgreSQL's transaction is lost all the same
                await tx.fetch("SELECT 1 / 0")
        if (error := self.fail(event)) is not None:
            raise error

    async def effects(self) -> list[tuple[str, int]]:
        async with self.database.reader() as reader:
            return await self.kind.history(reader)

    def loops(self, owner: str = "stock-1", *, alone: bool = False) -> Loops:
        handlers = {"orders.counted": Handler(self.count, alone)}
        return Loops(Station("stock", owner, self.database, self.bus), handlers, IMPATIENT)

    @contextlib.asynccontextmanager
    async def running(self, owner: str = "stock-1", *, alone: bool = False) -> AsyncIterator[None]:
        loops = self.loops(owner, alone=alone)
        loops.start()
        try:
            yield
        finally:
            await loops.stop()

    async def settled(self, count: int) -> list[tuple[str, int]]:
        async def enough() -> bool:
            return len(await self.effects()) >= count

        await until(enough, what=f"{count} effects")
        return await self.effects()


@pytest.fixture
async def database(kind: Kind) -> AsyncIterator[Database]:
    database = kind.database(encode)
    await database.open()
    await database.migrate(None)
    await kind.create(database)
    yield database
    await database.close()


@pytest.fixture
async def world(kind: Kind, database: Database) -> AsyncIterator[World]:
    broker = Broker()
    broker.add_stream("orders", "event.orders.>")
    broker.add_durable("orders", "stock")
    broker.add_stream("stock", "event.stock.>")
    world = World(kind, database, broker)
    await world.bus.start()
    yield world
    await world.bus.close()


async def test_an_event_changes_the_data_once_however_often_it_is_stored(world: World) -> None:
    event = world.event("a", 1)
    await world.send(event, world.event("a", 2))
    world.broker.delete_stream("orders")  # forgets its duplicate window, too
    world.broker.add_stream("orders", "event.orders.>")
    world.broker.add_durable("orders", "stock")
    await world.send(event)
    async with world.running():
        await world.settled(1)
        await world.send(world.event("a", 3))
        effects = await world.settled(2)

    assert effects == [("a", 1), ("a", 3)]


async def test_a_consumer_that_died_after_its_commit_handles_nothing_again(world: World) -> None:
    await world.send(*(world.event("a", n) for n in range(5)))
    async with world.running("stock-1"):
        await world.settled(5)
    await world.send(world.event("a", 5))
    async with world.running("stock-2"):
        effects = await world.settled(6)

    assert effects == [("a", n) for n in range(6)]


async def test_a_failing_event_holds_back_its_key_and_nothing_else(world: World) -> None:
    world.fail = lambda event: ValueError("not yet") if event["key"] == "bad" else None
    await world.send(world.event("bad", 1), world.event("good", 1), world.event("bad", 2), world.event("good", 2))
    async with world.running():
        assert await world.settled(2) == [("good", 1), ("good", 2)]
        await until(_parked(world, "dead", 1))
        world.fail = lambda event: None
        [dead] = await world.database.journal.parked("dead")
        assert dead.attempts == 3
        assert dead.error == "ValueError: not yet"
        assert "Traceback" in dead.trace

        await dead_letters.retry(world.database, dead.id)
        effects = await world.settled(4)

    assert effects[2:] == [("bad", 1), ("bad", 2)]


async def test_a_discarded_dead_letter_lets_its_key_go_on(world: World) -> None:
    world.fail = lambda event: ValueError("never") if event["n"] == 1 else None
    await world.send(world.event("k", 1), world.event("k", 2))
    async with world.running():
        await until(_parked(world, "dead", 1))
        [dead] = await world.database.journal.parked("dead")
        await dead_letters.discard(world.database, dead.id)
        assert await world.settled(1) == [("k", 2)]


async def test_an_outage_is_tried_for_ever_and_never_counted(world: World) -> None:
    left = [Outage("the provider is away")] * 10
    world.fail = lambda event: left.pop() if left else None
    await world.send(world.event("k", 1))
    async with world.running():
        assert await world.settled(1) == [("k", 1)]

    assert len(world.deliveries) == 11
    assert {delivery.attempt for delivery in world.deliveries} == {1}


async def test_every_attempt_has_the_same_id_and_its_number(world: World) -> None:
    left = [ValueError("once"), ValueError("twice")]
    world.fail = lambda event: left.pop() if left else None
    await world.send(world.event("k", 1))
    async with world.running(alone=True):
        await world.settled(1)

    assert len({delivery.id for delivery in world.deliveries}) == 1
    assert [delivery.attempt for delivery in world.deliveries] == [1, 2, 3]


async def test_an_event_that_kills_its_process_becomes_a_dead_letter(world: World) -> None:
    poison = world.event("poison", 1)
    await world.send(poison, world.event("good", 1))
    id = envelope.decode(poison.headers).id
    journal = world.database.journal
    for _ in range(3):  # three processes died with it in hand, none released its lease
        assert await journal.take_lease("orders", "stock-1", 5.0)
        await journal.begin_attempt("orders", id)
    async with world.running("stock-1"):
        assert await world.settled(1) == [("good", 1)]
        [dead] = await until(_parked(world, "dead", 1))

    assert dead.id == id
    assert "died" in dead.error


@pytest.mark.parametrize("kind", ["postgresql", "sqlalchemy"], indirect=True)
async def test_a_handler_that_spoils_its_transaction_without_a_word_is_found_and_parked(world: World) -> None:
    world.spoils = "spoiler"
    good = [world.event(f"good-{n}", n) for n in range(5)]
    await world.send(*good[:3], world.event("spoiler", 1), *good[3:])
    async with world.running():
        await until(_parked(world, "dead", 1))
        effects = await world.settled(5)

    assert effects == [(f"good-{n}", n) for n in range(5)]
    [dead] = await world.database.journal.parked()
    assert dead.key == "spoiler"


async def test_a_loop_outlives_an_error_that_nobody_foresaw(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [RuntimeError("nobody foresaw this")] * 3
    source = world.bus.source

    class Odd:
        """A source that fails in a way no port promises, then works."""

        def __init__(self, stream: str, durable: str) -> None:
            self._real, self.stream = source(stream, durable), stream

        async def reset(self, sequence: int, timeout_s: float = 5.0) -> Any:
            if left:
                raise left.pop()
            return await self._real.reset(sequence, timeout_s)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    monkeypatch.setattr(world.bus, "source", Odd)
    await world.send(world.event("a", 1))
    async with world.running():
        assert await world.settled(1) == [("a", 1)]
    assert left == []


async def test_an_outage_of_the_own_database_is_nobodys_attempt(world: World) -> None:
    left = [DatabaseOutage("a conflict")] * 8
    world.fail = lambda event: left.pop() if left else None
    await world.send(world.event("k", 1))
    assert await world.database.journal.take_lease("orders", "somebody-else", 0.01)  # and died: events are tried carefully
    async with world.running():
        assert await world.settled(1) == [("k", 1)]

    assert await world.database.journal.parked() == []
    assert {delivery.attempt for delivery in world.deliveries} == {1}


async def test_a_holder_that_was_paused_commits_nothing_after_another_took_over(world: World) -> None:
    lease = await world.database.journal.take_lease("orders", "paused", 5.0)
    assert lease is not None
    stolen = await world.database.journal.take_lease("orders", "paused", 5.0)
    assert stolen is not None
    assert stolen.epoch > lease.epoch

    async def commit_late() -> None:
        async with world.database.transaction() as tx:
            await world.kind.insert(tx, "late", 1)
            await world.database.journal.advance(tx, lease, 1, ["late-id"])

    with pytest.raises(LeaseLost):
        await commit_late()

    assert await world.effects() == []


async def test_a_replica_waits_while_another_holds_the_lease_and_goes_on_when_it_is_released(world: World) -> None:
    async with world.running("stock-1"):
        await world.send(world.event("a", 1))
        await world.settled(1)
        second = world.loops("stock-2")
        second.start()
        await world.send(world.event("a", 2))
        await world.settled(2)
    await world.send(world.event("a", 3))
    assert await world.settled(3) == [("a", 1), ("a", 2), ("a", 3)]
    await second.stop()


async def test_a_bus_outage_delays_and_loses_nothing(world: World) -> None:
    async with world.running():
        await world.send(world.event("a", 1))
        await world.settled(1)
        world.broker.stop()
        async with world.database.transaction() as tx:
            await tx.publish({"key": "x", "n": 1})
        world.broker.start()
        await world.send(world.event("a", 2))
        await until(lambda: len(world.broker.messages("orders")) >= 3)
        effects = await world.settled(3)

    assert sorted(effects) == [("a", 1), ("a", 2), ("x", 1)]


async def test_the_relay_publishes_in_the_order_of_commits_and_empties_the_outbox(world: World) -> None:
    async with world.running():
        for n in range(300):
            async with world.database.transaction() as tx:
                await tx.publish({"key": "k", "n": n})
        await until(lambda: len(world.broker.messages("orders")) == 300)

        async def empty() -> bool:
            return (await world.database.journal.backlog()).count == 0

        await until(empty)

    assert [json.loads(message.body)["n"] for message in world.broker.messages("orders")] == list(range(300))


async def test_a_relay_that_died_before_it_deleted_publishes_again_and_nothing_counts_twice(world: World) -> None:
    async with world.database.transaction() as tx:
        await tx.publish({"key": "k", "n": 1})
    [row] = await world.database.journal.outbox(10)
    await world.send(Message(row.subject, row.headers, row.body))  # published, then killed
    async with world.running():

        async def empty() -> bool:
            return (await world.database.journal.backlog()).count == 0

        await until(empty)
        await world.send(world.event("k", 2))
        effects = await world.settled(2)

    assert effects == [("k", 1), ("k", 2)]


def _parked(world: World, state: str, count: int) -> Callable[[], Any]:
    async def found() -> Any:
        parked = await world.database.journal.parked(state)
        return parked if len(parked) >= count else None

    return found


async def test_a_running_service_forgets_what_was_answered_long_enough_ago(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def kept(id: str) -> bool:
        async with database.transaction(patient=True) as tx:
            return await database.journal.claim(tx, id) is not None

    async with database.transaction(patient=True) as tx:
        await database.journal.claim(tx, "k1")
        await database.journal.keep(tx, "k1", Kept(b"", 201, b"[]", b""))
    async with world.running():
        await world.send(world.event("a", 1))
        await world.settled(1)
    assert await kept("k1")

    monkeypatch.setattr(loops, "BUDGETS", replace(BUDGETS, answers_kept_s=0.0))
    async with world.running():

        async def gone() -> bool:
            return not await kept("k1")

        assert await until(gone)
