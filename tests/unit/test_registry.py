"""The registry: membership without expiry, on the bus in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import msgspec
import pytest

from atoll.bus.memory import Broker, MemoryBus
from atoll.bus.ports import Received
from atoll.registry.announcement import Announcement, remove
from atoll.registry.replica import STREAM, Replica, parse, subject
from atoll.registry.watch import Watch
from tests.support.waiting import until

ONE = Replica("orders", "orders-1", "127.0.0.1:2100", "d1", "1.0.0")
TWO = Replica("orders", "orders-2", "127.0.0.1:2101", "d1", "1.0.0")
PAYMENTS = Replica("payments", "payments-1", "127.0.0.1:2102", "d9", "1.0.0")


@pytest.fixture
async def broker() -> Broker:
    broker = Broker()
    broker.add_stream(STREAM, "$KV.registry.>")
    return broker


@pytest.fixture
async def bus(broker: Broker) -> AsyncIterator[MemoryBus]:
    bus = broker.bus()
    await bus.start()
    yield bus
    await bus.close()


class Seen:
    """What a watch told."""

    def __init__(self) -> None:
        self.times = 0
        self.replicas: Mapping[str, Replica] = {}

    def __call__(self, replicas: Mapping[str, Replica]) -> None:
        self.times += 1
        self.replicas = dict(replicas)

    @property
    def keys(self) -> list[str]:
        return list(self.replicas)


async def announced(bus: MemoryBus, replica: Replica, interval_s: float = 0.02) -> Announcement:
    announcement = Announcement(bus, replica, interval_s=interval_s)
    await announcement.start()
    return announcement


async def write(bus: MemoryBus, entry: Replica) -> None:
    await bus.request(subject(entry.key), msgspec.json.encode(entry))


def beats(broker: Broker, replica: Replica) -> int:
    return sum(message.subject == subject(replica.key) for message in broker.messages(STREAM))


async def test_an_announced_replica_is_seen_by_watchers_of_before_and_after(bus: MemoryBus) -> None:
    early, late = Seen(), Seen()
    first = Watch(bus, early)
    await first.start()
    announcement = await announced(bus, ONE)
    await until(lambda: early.keys == [ONE.key])
    second = Watch(bus, late)
    await second.start()
    await until(lambda: late.keys == [ONE.key])

    entry = late.replicas[ONE.key]
    assert (entry.service, entry.address, entry.digest, entry.version) == ("orders", "127.0.0.1:2100", "d1", "1.0.0")
    await announcement.withdraw()
    await until(lambda: early.keys == late.keys == [])
    await first.close()
    await second.close()


async def test_heartbeats_alone_are_no_change(broker: Broker, bus: MemoryBus) -> None:
    seen = Seen()
    watch = Watch(bus, seen)
    await watch.start()
    announcement = await announced(bus, ONE)
    await until(lambda: beats(broker, ONE) > 5)

    assert seen.times == 1
    await announcement.withdraw()
    await watch.close()


async def test_an_announcement_made_without_a_bus_is_written_when_it_comes(broker: Broker) -> None:
    broker.stop()
    bus = broker.bus()
    await bus.start()
    announcement = await announced(bus, ONE)
    assert not announcement.announced

    broker.start()
    await until(lambda: announcement.announced)
    await announcement.withdraw()
    await bus.close()


async def test_a_wiped_registry_fills_again_by_itself(broker: Broker, bus: MemoryBus) -> None:
    announcement = await announced(bus, ONE)
    await until(lambda: beats(broker, ONE) > 2)
    broker.delete_stream(STREAM)
    broker.add_stream(STREAM, "$KV.registry.>")

    await until(lambda: beats(broker, ONE) > 2)
    assert not announcement.superseded
    await announcement.withdraw()


async def test_a_draining_replica_neither_overwrites_nor_removes_its_successor(broker: Broker, bus: MemoryBus) -> None:
    seen = Seen()
    watch = Watch(bus, seen)
    await watch.start()
    old = await announced(bus, ONE)
    await until(lambda: seen.keys == [ONE.key])
    new = await announced(bus, msgspec.structs.replace(ONE, address="127.0.0.1:3000"))
    await until(lambda: old.superseded)

    await old.withdraw()
    count = beats(broker, ONE)
    await until(lambda: beats(broker, ONE) > count + 2)

    assert seen.replicas[ONE.key].address == "127.0.0.1:3000"
    assert not new.superseded
    await new.withdraw()
    await watch.close()


async def test_an_entry_that_is_older_than_ones_own_tells_of_no_successor(broker: Broker, bus: MemoryBus) -> None:
    """As a server of three may show it that was cut off, and a bus that was restored."""
    own = await announced(bus, ONE, 0.005)
    stored = await until(lambda: broker.last_sequence(subject(ONE.key)) > 20 and broker.last_sequence(subject(ONE.key)))
    broker.delete_stream(STREAM)
    broker.add_stream(STREAM, "$KV.registry.>")
    other = msgspec.structs.replace(ONE, address="127.0.0.1:3000", incarnation="another")

    async def superseded() -> bool:
        await write(bus, other)
        return own.superseded

    await until(superseded)

    assert broker.last_sequence(subject(ONE.key)) > stored
    await own.stop()


async def test_a_replica_taken_for_dead_comes_back_with_its_next_beat(bus: MemoryBus) -> None:
    seen = Seen()
    watch = Watch(bus, seen)
    await watch.start()
    announcement = await announced(bus, ONE)
    await until(lambda: seen.keys == [ONE.key])
    times = seen.times

    assert await remove(bus, "orders", "orders-1", died_at=4e9)
    await until(lambda: seen.times >= times + 2 and seen.keys == [ONE.key])
    await announcement.withdraw()
    await watch.close()


async def test_removing_a_dead_replica_spares_its_successor(bus: MemoryBus) -> None:
    await write(bus, msgspec.structs.replace(ONE, beat=100.0))

    assert not await remove(bus, "orders", "orders-1", died_at=99.0)
    assert await remove(bus, "orders", "orders-1", died_at=101.0)
    assert not await remove(bus, "orders", "orders-1", died_at=101.0)
    assert not await remove(bus, "orders", "nobody", died_at=101.0)


async def test_an_outage_and_an_empty_bucket_change_nothing(broker: Broker, bus: MemoryBus) -> None:
    seen = Seen()
    watch = Watch(bus, seen)
    await watch.start()
    await write(bus, ONE)
    await write(bus, TWO)
    await until(lambda: len(seen.keys) == 2)
    broker.stop()
    broker.delete_stream(STREAM)
    broker.add_stream(STREAM, "$KV.registry.>")
    broker.start()

    await write(bus, PAYMENTS)
    await until(lambda: len(seen.keys) == 3)
    await watch.close()


async def test_what_was_withdrawn_during_an_outage_of_the_watcher_is_gone_after_it(broker: Broker, bus: MemoryBus) -> None:
    seen = Seen()
    watch = Watch(bus, seen)
    await watch.start()
    await write(bus, ONE)
    await write(bus, TWO)
    await until(lambda: len(seen.keys) == 2)
    broker.detach(bus)
    other = broker.bus()
    await other.start()
    await remove(other, "orders", "orders-1", died_at=1.0)

    broker.attach(bus)
    bus.reconnect()

    await until(lambda: seen.keys == [TWO.key])
    await watch.close()
    await other.close()


async def test_an_unreadable_entry_leaves_what_was_known(bus: MemoryBus) -> None:
    seen = Seen()
    watch = Watch(bus, seen)
    await watch.start()
    await write(bus, ONE)
    await until(lambda: seen.keys == [ONE.key])
    await bus.request(subject(ONE.key), b"{broken")
    await write(bus, TWO)
    await until(lambda: len(seen.keys) == 2)

    assert seen.replicas[ONE.key].address == ONE.address
    await watch.close()


async def test_silence_counts_only_while_others_are_heard(bus: MemoryBus) -> None:
    now = [0.0]
    seen = Seen()
    watch = Watch(bus, seen, stale_after_s=30, clock=lambda: now[0])
    await watch.start()
    await write(bus, msgspec.structs.replace(ONE, beat=1.0))
    await write(bus, msgspec.structs.replace(TWO, beat=2.0))
    await until(lambda: len(seen.keys) == 2)

    for beat in (12.0, 22.0, 31.0):
        await write(bus, msgspec.structs.replace(TWO, beat=beat))
    assert len(watch.replicas) == 2
    await write(bus, msgspec.structs.replace(TWO, beat=32.0))
    await until(lambda: seen.keys == [TWO.key])
    await write(bus, msgspec.structs.replace(ONE, beat=33.0))
    await until(lambda: len(seen.keys) == 2)
    await watch.close()


async def test_nobody_goes_for_a_silence_of_all(bus: MemoryBus) -> None:
    """Servers that have lost each other: the connections stay, and nobody's beat arrives."""
    seen = Seen()
    watch = Watch(bus, seen, stale_after_s=30, clock=lambda: 0.0)
    await watch.start()
    await write(bus, msgspec.structs.replace(ONE, beat=1.0))
    await write(bus, msgspec.structs.replace(TWO, beat=2.0))
    await until(lambda: len(seen.keys) == 2)

    await write(bus, msgspec.structs.replace(TWO, beat=601.0, version="1.0.1"))
    await until(lambda: seen.replicas[TWO.key].version == "1.0.1")
    assert len(seen.keys) == 2
    for beat in (611.0, 621.0, 632.0):
        await write(bus, msgspec.structs.replace(TWO, beat=beat))
    await until(lambda: seen.keys == [TWO.key])
    await watch.close()


async def test_after_an_outage_everybody_is_given_time_to_be_heard(broker: Broker, bus: MemoryBus) -> None:
    now = [0.0]
    seen = Seen()
    watch = Watch(bus, seen, stale_after_s=30, clock=lambda: now[0])
    await watch.start()
    await write(bus, msgspec.structs.replace(ONE, beat=1.0))
    await write(bus, msgspec.structs.replace(TWO, beat=1.0))
    await until(lambda: len(seen.keys) == 2)
    broker.stop()
    now[0] = 600.0
    broker.start()

    await write(bus, msgspec.structs.replace(TWO, beat=601.0, version="1.0.1"))
    await until(lambda: seen.replicas[TWO.key].version == "1.0.1")
    assert len(seen.keys) == 2
    await watch.close()


def test_an_entry_that_names_another_service_than_its_key_is_not_believed() -> None:
    body = msgspec.json.encode(ONE)

    assert parse(Received(subject("orders.orders-1"), b"", body, 1)) == ONE
    assert parse(Received(subject("payments.orders-1"), b"", body, 1)) is None
    assert (
        parse(Received(subject("orders.orders-1"), b"", b'{"service":"orders","replica":"orders-1","address":""}', 1)) is None
    )
