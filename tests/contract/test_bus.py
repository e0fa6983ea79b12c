"""What `bus.ports` promises, asked of the bus in memory and of a real nats-server alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from atoll.bus import jetstream
from atoll.bus.jetstream import JetStreamBus
from atoll.bus.memory import Broker
from atoll.bus.ports import MAX_PAYLOAD_BYTES, Bus, Interrupted, Message, Received, Source
from atoll.errors import Bug, BusOutage
from tests.support.engines import NatsServer, nats_server
from tests.support.waiting import until

SUBJECT = "event.orders.order_placed.0"


class World(Protocol):
    """A bus and what only its administrator may do."""

    async def add_stream(self, name: str, *subjects: str) -> None: ...
    async def add_durable(self, stream: str, durable: str, *filters: str) -> None: ...
    async def delete_stream(self, name: str) -> None: ...
    async def bus(self) -> Bus: ...
    async def stop(self) -> None: ...
    async def start(self) -> None: ...
    async def close(self) -> None: ...


class Memory:
    def __init__(self) -> None:
        self.broker = Broker()
        self.buses: list[Bus] = []

    async def add_stream(self, name: str, *subjects: str) -> None:
        self.broker.add_stream(name, *subjects)

    async def add_durable(self, stream: str, durable: str, *filters: str) -> None:
        self.broker.add_durable(stream, durable, *filters)

    async def delete_stream(self, name: str) -> None:
        self.broker.delete_stream(name)

    async def bus(self) -> Bus:
        bus = self.broker.bus()
        self.buses.append(bus)
        await bus.start()
        return bus

    async def stop(self) -> None:
        self.broker.stop()

    async def start(self) -> None:
        self.broker.start()

    async def close(self) -> None:
        for bus in self.buses:
            await bus.close()


class Nats:
    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.buses: list[Bus] = []

    async def _admin(self, subject: str, question: dict[str, Any]) -> None:
        bus = await self.bus()
        answer = json.loads(await bus.request(f"$JS.API.{subject}", json.dumps(question).encode() if question else b""))
        assert "error" not in answer, answer

    async def add_stream(self, name: str, *subjects: str) -> None:
        window_ns = 30 * 10**9
        await self._admin(
            f"STREAM.CREATE.{name}",
            {"name": name, "subjects": subjects, "storage": "file", "duplicate_window": window_ns, "allow_direct": True},
        )

    async def add_durable(self, stream: str, durable: str, *filters: str) -> None:
        config = {"durable_name": durable, "ack_policy": "all", "deliver_policy": "all", "filter_subjects": filters}
        await self._admin(f"CONSUMER.CREATE.{stream}.{durable}", {"stream_name": stream, "config": config})

    async def delete_stream(self, name: str) -> None:
        await self._admin(f"STREAM.DELETE.{name}", {})

    async def bus(self) -> Bus:
        bus = JetStreamBus(self.server.url())
        self.buses.append(bus)
        await bus.start()
        assert await bus.wait_connected(5)
        return bus

    async def stop(self) -> None:
        self.server.kill()
        await until(lambda: not any(bus.connected for bus in self.buses))

    async def start(self) -> None:
        await self.server.start()

    async def close(self) -> None:
        for bus in self.buses:
            await bus.close()


@pytest.fixture(params=["memory", "nats"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "memory":
            made: World = Memory()
        else:
            made = Nats(await stack.enter_async_context(nats_server(tmp_path / "nats")))
        stack.push_async_callback(made.close)
        await made.add_stream("orders", "event.orders.>")
        await made.add_durable("orders", "payments", "event.orders.order_placed.*")
        yield made


def message(number: int, subject: str = SUBJECT, id: str = "") -> Message:
    return Message(subject, f"Nats-Msg-Id: {id or f'id-{number}'}\r\nce-type: orders.order_placed\r\n".encode(), b"%d" % number)


async def take(source: Source, count: int, limit: int = 256) -> list[Received]:
    """Pulls until `count` events came."""
    found: list[Received] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += await source.pull(limit, 1.0)
    return found


async def interrupted(source: Source) -> None:
    """Pulls until order can't be guaranteed any more."""
    async with asyncio.timeout(10):
        while True:
            try:
                await source.pull(10, 0.2)
            except Interrupted:
                return
            except BusOutage:
                await until(lambda: True)


def numbers(events: list[Received]) -> list[int]:
    return [int(event.body) for event in events]


async def test_events_come_in_the_order_they_were_published(world: World) -> None:
    bus = await world.bus()
    await bus.publish([message(n) for n in range(700)])
    await bus.publish([message(n) for n in range(700, 1000)])
    source = bus.source("orders", "payments")
    position = await source.reset(1)

    events = await take(source, 1000)

    assert numbers(events) == list(range(1000))
    assert [event.sequence for event in events] == list(range(1, 1001))
    assert position.last_sequence == 1000


async def test_headers_subject_and_body_arrive_as_they_were_sent(world: World) -> None:
    bus = await world.bus()
    body = bytes(range(256)) * 300 + b"\r\nMSG x 1 5\r\n"
    await bus.publish([Message("event.orders.order_placed.3", b"Nats-Msg-Id: a\r\nce-id: a\r\n", body)])
    source = bus.source("orders", "payments")
    await source.reset(1)

    (event,) = await take(source, 1)

    assert event == Received("event.orders.order_placed.3", b"Nats-Msg-Id: a\r\nce-id: a\r\n", body, 1)


async def test_an_event_published_twice_is_stored_once(world: World) -> None:
    bus = await world.bus()
    batch = [message(1), message(2), message(3)]
    await bus.publish(batch)
    await bus.publish([*batch, message(4)])
    source = bus.source("orders", "payments")
    await source.reset(1)

    assert numbers(await take(source, 4)) == [1, 2, 3, 4]
    assert await source.pull(10, 0.05) == []


async def test_only_subscribed_events_come_and_sequences_are_those_of_the_stream(world: World) -> None:
    bus = await world.bus()
    await bus.publish([message(n, SUBJECT if n % 2 else "event.orders.order_cancelled.0") for n in range(1, 7)])
    source = bus.source("orders", "payments")
    await source.reset(1)

    assert [(int(e.body), e.sequence) for e in await take(source, 3)] == [(1, 1), (3, 3), (5, 5)]


async def test_a_pull_gives_at_most_its_limit_and_an_empty_list_when_nothing_comes(world: World) -> None:
    bus = await world.bus()
    source = bus.source("orders", "payments")
    await source.reset(1)
    assert await source.pull(5, 0.05) == []

    await bus.publish([message(n) for n in range(12)])
    first = await source.pull(5, 1.0)

    assert 1 <= len(first) <= 5
    assert numbers(first + await take(source, 12 - len(first), limit=5)) == list(range(12))


async def test_a_source_says_how_many_events_wait(world: World) -> None:
    bus = await world.bus()
    source = bus.source("orders", "payments")
    assert source.behind == 0
    await bus.publish([message(n) for n in range(5)])
    await source.reset(1)

    assert numbers(await source.pull(2, 5.0)) == [0, 1]
    await until(lambda: source.behind == 3)
    await take(source, 3)

    assert source.behind == 0


async def test_a_waiting_pull_gets_an_event_as_soon_as_it_is_published(world: World) -> None:
    bus, other = await world.bus(), await world.bus()
    source = bus.source("orders", "payments")
    await source.reset(1)
    waiting = asyncio.create_task(source.pull(10, 10.0))
    await source_idle(waiting)

    await other.publish([message(1)])

    assert numbers(await waiting) == [1]


async def test_a_steady_trickle_of_events_is_never_taken_for_silence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sends no heartbeats between events that come more often."""
    monkeypatch.setattr(jetstream, "_HEARTBEAT_S", 0.5)
    monkeypatch.setattr(jetstream, "_GRACE_S", 0.6)
    bus = await world.bus()
    source = bus.source("orders", "payments")
    await source.reset(1)

    for number in range(12):
        assert await source.pull(256, 0.1) == []
        await bus.publish([message(number)])
        assert numbers(await source.pull(256, 5.0)) == [number]


async def source_idle(task: asyncio.Task[Any]) -> None:
    """Lets a pull reach the server."""
    done, _ = await asyncio.wait({task}, timeout=0.1)
    assert not done


async def test_reset_goes_back_and_forth(world: World) -> None:
    bus = await world.bus()
    await bus.publish([message(n) for n in range(1, 101)])
    source = bus.source("orders", "payments")
    await source.reset(1)
    assert numbers(await take(source, 100)) == list(range(1, 101))
    source.acknowledge(100)

    await source.reset(51)
    assert numbers(await take(source, 50)) == list(range(51, 101))
    await source.reset(100)
    assert numbers(await take(source, 1)) == [100]


async def test_a_reset_during_a_pull_loses_nothing_to_the_pull_of_before(world: World) -> None:
    """What an earlier pull request swallows would be missing after the reset."""
    bus = await world.bus()
    source = bus.source("orders", "payments")
    for round in range(1, 6):
        await source.reset(round)
        waiting = asyncio.create_task(source.pull(256, 10.0))
        await source_idle(waiting)
        await source.reset(round)
        await bus.publish([message(round)])
        with contextlib.suppress(Interrupted):
            assert numbers(await waiting) == [round]
            continue
        assert numbers(await take(source, 1)) == [round]


async def test_a_reset_beyond_the_end_tells_where_the_end_is(world: World) -> None:
    bus = await world.bus()
    await bus.publish([message(1), message(2)])
    source = bus.source("orders", "payments")

    assert (await source.reset(5000)).last_sequence == 2


async def test_a_stream_made_anew_has_another_identity(world: World) -> None:
    bus = await world.bus()
    await bus.publish([message(1), message(2)])
    source = bus.source("orders", "payments")
    before = await source.reset(1)
    again = await source.reset(1)
    assert numbers(await take(source, 2)) == [1, 2]

    await world.delete_stream("orders")
    await interrupted(source)
    with pytest.raises(BusOutage):
        await source.reset(3)
    await world.add_stream("orders", "event.orders.>")
    await world.add_durable("orders", "payments")
    after = await source.reset(3)

    assert before.identity == again.identity != after.identity
    assert after.last_sequence == 0


async def test_an_outage_interrupts_and_loses_nothing(world: World) -> None:
    bus = await world.bus()
    source = bus.source("orders", "payments")
    await bus.publish([message(n) for n in range(1, 301)])
    position = await source.reset(1)
    got = await take(source, 1, limit=100)
    await world.stop()

    with pytest.raises(BusOutage):
        await bus.publish([message(301)])
    with pytest.raises((BusOutage, Interrupted)):
        await take(source, 300)

    await world.start()
    assert await bus.wait_connected(5)
    with pytest.raises(Interrupted):
        await source.pull(10, 1.0)
    again = await source.reset(got[-1].sequence + 1)
    await bus.publish([message(301)])
    rest = await take(source, 301 - len(got))
    assert numbers(got + rest) == list(range(1, 302))
    assert again.identity == position.identity


async def test_publishing_during_an_outage_fails_at_once_and_is_never_sent_later(world: World) -> None:
    bus = await world.bus()
    await world.stop()
    started = asyncio.get_running_loop().time()
    with pytest.raises(BusOutage):
        await bus.publish([message(1)], timeout_s=30)
    assert asyncio.get_running_loop().time() - started < 5
    bus.send(SUBJECT, b"7")

    await world.start()
    assert await bus.wait_connected(5)
    await bus.publish([message(2)])
    source = bus.source("orders", "payments")
    await source.reset(1)
    assert numbers(await take(source, 1)) == [2]


async def test_an_oversize_event_is_a_bug_and_nothing_of_its_batch_is_stored(world: World) -> None:
    bus = await world.bus()
    with pytest.raises(Bug, match="larger than"):
        await bus.publish([message(1), Message(SUBJECT, b"", b"x" * MAX_PAYLOAD_BYTES)])

    await bus.publish([Message(SUBJECT, b"", b"x" * (MAX_PAYLOAD_BYTES - 12)), message(2)])
    source = bus.source("orders", "payments")
    await source.reset(1)
    assert [len(event.body) for event in await take(source, 2)] == [MAX_PAYLOAD_BYTES - 12, 1]


async def test_a_subject_no_stream_takes_is_an_outage_at_once(world: World) -> None:
    bus = await world.bus()
    with pytest.raises(BusOutage):
        await bus.publish([message(1, "event.nobody.x.0")], timeout_s=30)
    with pytest.raises(BusOutage):
        await bus.request("nobody.home", timeout_s=30)


async def test_a_source_without_a_durable_is_an_outage(world: World) -> None:
    bus = await world.bus()
    with pytest.raises(BusOutage):
        await bus.source("orders", "strangers").reset(1, timeout_s=0.5)
    with pytest.raises(Interrupted):
        await bus.source("orders", "payments").pull(1, 0.1)


async def test_latest_gives_the_last_message_of_every_subject_in_stream_order(world: World) -> None:
    bus = await world.bus()
    await world.add_stream("KV_registry", "$KV.registry.>")
    assert await bus.latest("KV_registry", "$KV.registry.>") == []
    for key, value in [("orders.1", b"a"), ("orders.2", b"b"), ("orders.1", b"c"), ("payments.1", b"d")]:
        await bus.request(f"$KV.registry.{key}", value)
    await bus.request("$KV.registry.orders.2", b"", b"KV-Operation: DEL\r\n")

    everything = await bus.latest("KV_registry", "$KV.registry.>")

    assert [(e.subject, e.body, e.sequence) for e in everything] == [
        ("$KV.registry.orders.1", b"c", 3),
        ("$KV.registry.payments.1", b"d", 4),
        ("$KV.registry.orders.2", b"", 5),
    ]
    assert b"KV-Operation: DEL\r\n" in everything[2].headers
    assert [e.body for e in await bus.latest("KV_registry", "$KV.registry.orders.1")] == [b"c"]
    assert await bus.latest("KV_registry", "$KV.registry.nobody.1") == []
    with pytest.raises(BusOutage):
        await bus.latest("nothing", ">")


async def test_a_write_can_be_made_conditional_on_the_last_one(world: World) -> None:
    bus = await world.bus()
    await world.add_stream("KV_registry", "$KV.registry.>")
    first = json.loads(await bus.request("$KV.registry.orders.1", b"a"))
    header = f"Nats-Expected-Last-Subject-Sequence: {first['seq']}\r\n".encode()
    second = json.loads(await bus.request("$KV.registry.orders.1", b"b", header))
    refused = json.loads(await bus.request("$KV.registry.orders.1", b"c", header))

    assert second["seq"] == 2
    assert refused["error"]["err_code"] == 10071
    assert [e.body for e in await bus.latest("KV_registry", "$KV.registry.orders.1")] == [b"b"]


async def test_a_subscription_survives_a_reconnect(world: World) -> None:
    bus, other = await world.bus(), await world.bus()
    heard: list[bytes] = []
    ups: list[None] = []
    end_ups = bus.on_connected(lambda: ups.append(None))
    end = bus.subscribe("wake.*", lambda received: heard.append(received.body))
    await heard_once(other, heard, b"before")
    await world.stop()
    await world.start()
    assert await bus.wait_connected(5)
    assert await other.wait_connected(5)
    await until(lambda: len(ups) == 1)

    await heard_once(other, heard, b"after")
    end()
    end_ups()
    listener: list[bytes] = []
    bus.subscribe("wake.orders", lambda received: listener.append(received.body))
    await heard_once(other, listener, b"last")

    assert b"last" not in heard


async def heard_once(bus: Bus, heard: list[bytes], body: bytes) -> None:
    """Sends until it was heard: live messages may be lost."""

    def sent_and_heard() -> bool:
        bus.send("wake.orders", body)
        return body in heard

    await until(sent_and_heard)


async def test_of_two_pullers_the_one_that_reset_last_gets_everything_in_order(world: World) -> None:
    """The other is interrupted, whatever its pull request swallowed before."""
    former, bus = await world.bus(), await world.bus()
    loser, winner = former.source("orders", "payments"), bus.source("orders", "payments")
    await loser.reset(1)
    waiting = asyncio.create_task(loser.pull(256, 30.0))
    await source_idle(waiting)
    await winner.reset(1)
    await bus.publish([message(n) for n in range(1, 201)])

    cursor, got = 0, list[Received]()
    async with asyncio.timeout(20):
        while cursor < 200:
            try:
                batch = await winner.pull(50, 0.5)
            except Interrupted:
                await winner.reset(cursor + 1)
                continue
            got += batch
            cursor = batch[-1].sequence if batch else cursor

    assert numbers(got) == list(range(1, 201))
    with contextlib.suppress(Interrupted):
        await waiting
    await interrupted(loser)


async def test_an_event_swallowed_by_another_pull_is_missed_within_seconds(world: World) -> None:
    """Even when no later event shows the hole."""
    former, bus = await world.bus(), await world.bus()
    loser, winner = former.source("orders", "payments"), bus.source("orders", "payments")
    await loser.reset(1)
    waiting = asyncio.create_task(loser.pull(256, 30.0))
    await source_idle(waiting)
    await winner.reset(1)
    await bus.publish([message(1)])

    cursor = 0
    async with asyncio.timeout(15):
        while not cursor:
            try:
                batch = await winner.pull(50, 5.0)
            except Interrupted:
                await winner.reset(1)
                continue
            cursor = batch[-1].sequence if batch else 0
    assert cursor == 1
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError, Interrupted):
        await waiting
