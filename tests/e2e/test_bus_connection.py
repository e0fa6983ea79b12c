"""Our own client against a server that misbehaves: what a connection does when the other side does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.bus.endpoint import Endpoint, Server
from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Interrupted, Message
from atoll.errors import BusOutage, SystemMistake
from tests.support.contracts import shop_on_the_bus
from tests.support.engines import NatsServer, ProvisionedBus, nats_server, provisioned_bus
from tests.support.ports import free_port
from tests.support.waiting import until


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as running:
        yield running


async def test_a_server_that_stops_answering_is_left_and_found_again(server: NatsServer) -> None:
    bus = JetStreamBus(server.url(), ping_interval_s=0.05)
    await bus.start()
    assert await bus.wait_connected(5)

    os.kill(server.process.pid, signal.SIGSTOP)
    await until(lambda: "State:\tT" in Path(f"/proc/{server.process.pid}/status").read_text())
    waiting = asyncio.create_task(bus.request("nobody", timeout_s=60))
    with pytest.raises(BusOutage):
        await waiting
    assert not bus.connected
    os.kill(server.process.pid, signal.SIGCONT)

    assert await bus.wait_connected(10)
    await bus.close()


async def test_a_client_started_before_its_server_connects_when_it_comes(tmp_path: Path) -> None:
    port = free_port()
    bus = JetStreamBus(f"nats://127.0.0.1:{port}")
    await bus.start()
    assert not await bus.wait_connected(0.1)
    with pytest.raises(BusOutage, match="not connected"):
        await bus.request("x")

    configuration = f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{tmp_path / "store"}" }}\n'
    async with nats_server(tmp_path / "nats", configuration, port):
        assert await bus.wait_connected(10)
    await until(lambda: not bus.connected)
    await bus.close()


async def test_a_publisher_faster_than_the_network_waits_instead_of_filling_memory(server: NatsServer) -> None:
    bus = JetStreamBus(server.url(), ping_interval_s=60)
    await bus.start()
    assert await bus.wait_connected(5)
    os.kill(server.process.pid, signal.SIGSTOP)
    batch = [Message("event.orders.x.0", b"", b"x" * 500_000) for _ in range(20)]

    attempts = [asyncio.create_task(bus.publish(batch, timeout_s=60)) for _ in range(10)]
    await until(lambda: not bus.wire.writable.is_set())
    os.kill(server.process.pid, signal.SIGKILL)

    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert all(isinstance(outcome, BusOutage) for outcome in outcomes)
    await bus.close()


async def test_a_refused_batch_fails_alone(tmp_path: Path) -> None:
    async with provisioned_bus(tmp_path / "nats", shop_on_the_bus()) as provisioned:
        await _refused_batch_fails_alone(provisioned)


async def _refused_batch_fails_alone(provisioned: ProvisionedBus) -> None:
    bus = JetStreamBus(provisioned.url("orders"))
    await bus.start()
    assert await bus.wait_connected(5)
    own = Message("event.orders.order_placed.0", b"", b"x")
    foreign = Message("event.payments.payment_due.0", b"", b"x")

    good, bad, also_good = await asyncio.gather(
        bus.publish([own, own]), bus.publish([own, foreign, own], timeout_s=60), bus.publish([own]), return_exceptions=True
    )

    assert (good, also_good) == (None, None)
    assert isinstance(bad, BusOutage)
    assert "Permissions Violation" in bad.detail
    assert bus.wire.reconnects == 0
    await bus.close()


async def test_closing_fails_what_still_waits(server: NatsServer) -> None:
    bus = JetStreamBus(server.url())
    await bus.start()
    assert await bus.wait_connected(5)
    bus.subscribe("silent", lambda received: None)
    waiting = asyncio.create_task(bus.request("silent", timeout_s=60))
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done

    await bus.close()

    with pytest.raises(BusOutage):
        await waiting
    assert not bus.connected


async def test_a_failing_subscriber_does_not_break_the_connection(server: NatsServer) -> None:
    bus = JetStreamBus(server.url())
    await bus.start()
    assert await bus.wait_connected(5)
    heard: list[bytes] = []

    def fail(_received: object) -> None:
        raise ValueError("mine")

    bus.subscribe("news", fail)
    bus.subscribe("news", lambda received: heard.append(received.body))
    bus.send("news", b"one")
    bus.send("news", b"two", b"a: b\r\n")

    await until(lambda: heard == [b"one", b"two"])
    assert bus.wire.reconnects == 0
    await bus.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:4222", "127.0.0.1:4222", "nats://"])
def test_what_is_not_a_bus_url_is_a_mistake(url: str) -> None:
    with pytest.raises(SystemMistake, match="bus URL"):
        Endpoint.parse(url)


def test_credentials_in_a_bus_url_are_decoded() -> None:
    assert Endpoint.parse("nats://orders:p%40%2F@bus") == Endpoint((Server("bus", 4222, "bus"),), "orders", "p@/")


async def test_through_kills_of_the_server_everything_comes_once_and_in_order(tmp_path: Path) -> None:
    """A publisher that repeats what was not acknowledged, a consumer that goes on from its cursor."""
    batches, kills = 200, 5
    async with provisioned_bus(tmp_path / "nats", shop_on_the_bus()) as provisioned:
        publisher, consumer = JetStreamBus(provisioned.url("orders")), JetStreamBus(provisioned.url("inventory"))
        got: list[int] = []
        for bus in (publisher, consumer):
            await bus.start()
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(_publish_all(publisher, batches, got))
            tasks.create_task(_consume_all(consumer, got, batches * 20))
            for kill in range(1, kills + 1):
                await until(lambda kill=kill: len(got) > kill * batches * 20 // (kills + 2), 30)  # type: ignore[misc]
                provisioned.server.kill()
                await provisioned.server.start()

        assert got == list(range(batches * 20))
        assert publisher.wire.reconnects == kills
        for bus in (publisher, consumer):
            await bus.close()


async def _publish_all(bus: JetStreamBus, batches: int, got: list[int]) -> None:
    """Not far ahead of the consumer, so that every kill hits both."""
    for first in range(0, batches * 20, 20):
        await until(lambda first=first: len(got) > first - 200, 30)  # type: ignore[misc]
        numbers = range(first, first + 20)
        batch = [Message("event.orders.order_placed.0", b"Nats-Msg-Id: %d\r\n" % n, b"%d" % n) for n in numbers]
        while True:
            try:
                await bus.publish(batch)
                break
            except BusOutage:
                await bus.wait_connected(5)


async def _consume_all(bus: JetStreamBus, got: list[int], count: int) -> None:
    source, cursor = bus.source("orders", "inventory"), 0
    while len(got) < count:
        try:
            events = await source.pull(64, 1)
        except (Interrupted, BusOutage):
            await bus.wait_connected(5)
            with contextlib.suppress(BusOutage):
                await source.reset(cursor + 1)
            continue
        if events:
            got += [int(event.body) for event in events]
            cursor = events[-1].sequence
            source.acknowledge(cursor)
