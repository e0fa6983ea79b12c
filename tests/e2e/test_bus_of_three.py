"""A bus of three servers: who is connected with which, what each of them knows, and what is believed of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Interrupted, Message, Received
from atoll.errors import BusOutage
from atoll.provision.nats import KEYS, PLATFORM_ADMIN, admin
from atoll.registry.announcement import Announcement
from atoll.registry.replica import STREAM, Replica
from atoll.registry.watch import Watch
from atoll.service import keys
from atoll.service.keys import KeyFeed
from atoll.tokens import KeySet, Verifier
from tests.support.cluster import COUNT, Bus, three_servers
from tests.support.contracts import contract, shop_on_the_bus
from tests.support.tokens import Mint
from tests.support.waiting import until


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    async with three_servers(tmp_path, shop_on_the_bus()) as running:
        yield running


async def enter(url: str) -> JetStreamBus:
    bus = JetStreamBus(url)
    await bus.start()
    assert await bus.wait_connected(10)
    return bus


def port(connected: JetStreamBus) -> int:
    """Of the server that it is connected with."""
    connection = connected.wire._connection
    assert connection is not None
    assert connection.transport is not None
    return int(connection.transport.get_extra_info("peername")[1])


def number(bus: Bus, connected: JetStreamBus) -> int:
    return [member.port for member in bus.members].index(port(connected))


async def leader(bus: Bus, user: str, stream: str) -> int:
    asking = await enter(bus.url(user))
    try:
        found = json.loads(await asking.request(f"$JS.API.STREAM.INFO.{stream}"))
        return int(found["cluster"]["leader"].removeprefix("nats-"))
    finally:
        await asking.close()


async def test_clients_spread_over_the_servers(bus: Bus) -> None:
    clients = [await enter(bus.url("orders")) for _ in range(24)]

    assert {port(client) for client in clients} == {member.port for member in bus.members}
    for client in clients:
        await client.close()


async def test_a_client_whose_server_dies_goes_to_another_also_to_one_that_only_the_dead_one_named(bus: Bus) -> None:
    client = await enter(bus.url("orders", 0))

    bus.members[0].kill()
    second = await until(lambda: client.connected and number(bus, client))
    await bus.members[0].start()
    bus.members[second].kill()

    assert await until(lambda: client.connected and number(bus, client) != second)
    await client.close()


async def test_everything_is_stored_by_all_three(bus: Bus) -> None:
    for user, stream in (("orders-admin", "orders"), (PLATFORM_ADMIN, STREAM), ("auth-admin", KEYS)):
        asking = await enter(bus.url(user))
        found = json.loads(await asking.request(f"$JS.API.STREAM.INFO.{stream}"))
        assert found["config"]["num_replicas"] == COUNT
        assert len(found["cluster"]["replicas"]) == COUNT - 1
        await asking.close()
    asking = await enter(bus.url(admin("orders")))
    found = json.loads(await asking.request("$JS.API.CONSUMER.INFO.orders.inventory"))
    assert len(found["cluster"]["replicas"]) == COUNT - 1
    await asking.close()


async def test_provision_makes_every_server_read_its_configuration_and_changes_nothing_twice(bus: Bus) -> None:
    bus.change({**shop_on_the_bus(), "late": contract("late", ["thing_done"], ["orders.order_placed"])})

    await bus.administrator.reload()
    made = await bus.administrator.make()

    assert set(made.changes) == {"stream late made", "durable orders/late made"}
    for one in range(COUNT):
        newcomer = await enter(bus.url("late", one))
        await newcomer.publish([Message("event.late.thing_done.0", b"", b"x")])
        await newcomer.close()
    assert (await bus.administrator.make()).changes == []


async def test_a_server_that_provision_can_not_reach_is_named(bus: Bus) -> None:
    bus.members[1].kill()

    with pytest.raises(BusOutage, match=f"the bus at 127.0.0.1:{bus.members[1].port} can't be entered"):
        await bus.administrator.reload()


async def test_a_client_leaves_a_server_that_is_cut_off_from_the_others(bus: Bus) -> None:
    client = await enter(bus.url("orders"))
    own = number(bus, client)
    bus.cut_off(own)

    stored = asyncio.create_task(_publish_until_stored(client, Message("event.orders.order_placed.0", b"", b"x")))
    await asyncio.wait_for(stored, 40)

    assert number(bus, client) != own
    await client.close()


async def _publish_until_stored(bus: JetStreamBus, message: Message) -> None:
    while True:
        try:
            await bus.publish([message], timeout_s=1)
            return
        except BusOutage:
            await bus.wait_connected(5)


async def test_a_snapshot_is_never_one_of_a_server_that_is_behind(bus: Bus) -> None:
    """A follower that was cut off answers direct gets for a while with what it knew."""
    leading = await leader(bus, PLATFORM_ADMIN, STREAM)
    behind, other = (one for one in range(COUNT) if one != leading)
    writer = await enter(bus.url(PLATFORM_ADMIN, leading, other))
    await writer.request("$KV.registry.orders.orders-1", b"before")
    bus.cut_off(behind)
    await until(lambda: _written(writer, b"after"), 20)
    bus.join(behind)

    reader, read = await enter(bus.url(PLATFORM_ADMIN, behind)), []
    while b"after" not in read:
        try:
            read += [one.body for one in await reader.latest(STREAM, "$KV.registry.>", timeout_s=1)]
        except BusOutage:
            await reader.wait_connected(5)

    assert read == [b"after"]
    assert await reader.latest(STREAM, "$KV.registry.nobody.>", timeout_s=1) == []
    for client in (writer, reader):
        await client.close()


async def test_a_long_backlog_is_read_without_a_pause(bus: Bus) -> None:
    """The word that a pull is over may come in front of its last events."""
    orders, inventory = await enter(bus.url("orders")), await enter(bus.url("inventory"))
    for batch in range(40):
        numbers = range(batch * 256, (batch + 1) * 256)
        await orders.publish([Message("event.orders.order_placed.0", b"Nats-Msg-Id: %d\r\n" % n, b"") for n in numbers])
    source = inventory.source("orders", "inventory")
    await source.reset(1)

    count = 0
    while count < 40 * 256:  # raises Interrupted when the server seems to have forgotten what was asked for
        events = await source.pull(256, 5)
        count += len(events)
        source.acknowledge(events[-1].sequence)

    for client in (orders, inventory):
        await client.close()


async def test_keys_reach_who_is_connected_with_a_server_that_has_lost_another(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live they do not: servers pass on what a client said, and not what another server did."""
    monkeypatch.setattr(keys, "_READ_AGAIN_S", 0.1)
    leading = await leader(bus, "auth-admin", KEYS)
    ours, theirs = (one for one in range(COUNT) if one != leading)
    auth, connection = await enter(bus.url("auth", theirs)), await enter(bus.url("orders", ours))
    mint = Mint()
    verifier = Verifier(mint.issuer, mint.audience, KeySet())
    feed = KeyFeed(verifier, tmp_path / "state")
    feed.start(connection)
    live: list[bytes] = []
    connection.subscribe("keys.>", lambda received: live.append(received.body))
    bus.part(ours, theirs)

    published = msgspec.json.encode(KeySet.of([mint.key.public], version=2))
    await _publish_until_stored(auth, Message("keys.set", b"", published))
    await until(lambda: verifier.keys.version == 2, 20)

    assert live == []
    feed.stop()
    for client in (auth, connection):
        await client.close()


async def _written(writer: JetStreamBus, body: bytes) -> bool:
    try:
        return "seq" in json.loads(await writer.request("$KV.registry.orders.orders-1", body, timeout_s=1))
    except BusOutage:
        return False


async def test_a_replica_stays_announced_when_the_leader_of_the_registry_dies(bus: Bus) -> None:
    replica = Replica("orders", "orders-1", "127.0.0.1:2100", "d1")
    own, watching = await enter(bus.url("orders")), await enter(bus.url("gateway"))
    seen: list[set[str]] = []
    watch = Watch(watching, lambda replicas: seen.append(set(replicas)))
    await watch.start()
    announcement = Announcement(own, replica, interval_s=0.05)
    await announcement.start()
    await until(lambda: seen == [{"orders.orders-1"}])

    bus.members[await leader(bus, PLATFORM_ADMIN, STREAM)].kill()
    await until(lambda: _beats(announcement), 30)

    assert not announcement.superseded
    assert seen == [{"orders.orders-1"}]
    await announcement.withdraw(5.0)
    await until(lambda: seen[-1] == set())
    await watch.close()
    for client in (own, watching):
        await client.close()


async def _beats(announcement: Announcement) -> bool:
    before = announcement._sequence or 0
    return await until(lambda: (announcement._sequence or 0) > before + 3, 30)


async def test_what_a_dead_client_s_pull_swallowed_is_delivered_to_its_successor(bus: Bus) -> None:
    """Its connection looks alive. The successor's own pulls of before must not swallow it again after each reset."""
    teller, sequence = await enter(bus.url("orders")), 0
    for number in range(3):
        dead = await enter(bus.url("inventory"))
        source = dead.source("orders", "inventory")
        await source.reset(sequence + 1)
        assert await source.pull(8, 0.05) == []
        await teller.publish([Message("event.orders.order_placed.k", b"", b"%d" % number)])

        successor = await enter(bus.url("inventory"))
        resets, (event,) = await _handed_over(successor, sequence + 1)

        assert (event.body, resets <= 3) == (b"%d" % number, True), f"{resets} resets"
        sequence = event.sequence
        await successor.close()
        await dead.close()
    await teller.close()


async def _handed_over(bus: JetStreamBus, sequence: int) -> tuple[int, list[Received]]:
    """How many resets it took until something came, and that."""
    source = bus.source("orders", "inventory")
    for resets in range(1, 30):
        with contextlib.suppress(Interrupted):
            await source.reset(sequence)
            while True:
                if events := await source.pull(8, 1.0):
                    return resets, events
    raise AssertionError("nothing came")
