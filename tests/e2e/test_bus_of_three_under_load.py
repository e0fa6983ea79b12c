"""Outbox to inbox over a bus of three servers: while one dies, one is cut off, one stands still, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.bus.jetstream import JetStreamBus
from atoll.database.ports import Database, OutboxRow
from atoll.delivery import envelope
from atoll.delivery.handling import Delivery, Handler
from atoll.delivery.loops import Loops, Station
from atoll.errors import BusOutage
from atoll.provision.nats import admin
from tests.support.cluster import Bus, three_servers, up_to_date
from tests.support.contracts import shop_on_the_bus
from tests.support.kinds import Kind, kind_of
from tests.support.waiting import until

KEYS = tuple("abcdefgh")
AHEAD = 400  # events: every fault hits both ends
BETWEEN = 250  # events that must come while a server is away
PATIENCE_S = 90.0


def encode(event: Any) -> OutboxRow:
    return envelope.encode("orders", "order_placed", event["key"], json.dumps(event).encode())


@dataclass
class Traffic:
    """Orders tells of its rows, inventory writes down what it hears, in the order in which it hears it."""

    bus: Bus
    orders: tuple[Kind, Database, JetStreamBus]
    inventory: tuple[Kind, Database, JetStreamBus]
    told: int = 0
    going_on: bool = True
    loops: list[Loops] = field(default_factory=list)

    async def handle(self, body: bytes, delivery: Delivery, tx: Any) -> None:
        event = json.loads(body)
        await self.inventory[0].insert(tx, event["key"], event["n"])

    def start(self) -> None:
        for name, (_, database, bus), handlers in (
            ("orders", self.orders, {}),
            ("inventory", self.inventory, {"orders.order_placed": Handler(self.handle)}),
        ):
            loops = Loops(Station(name, f"{name}-1", database, bus), handlers)
            loops.start()
            self.loops.append(loops)

    async def tell(self) -> None:
        """Until told to stop; not far ahead of who hears."""
        database, n = self.orders[1], 0
        while self.going_on:
            n += 1
            for key in KEYS:
                async with database.transaction() as tx:
                    await tx.publish({"key": key, "n": n})
                self.told += 1
            await until(self._near, 5 * PATIENCE_S, "inventory to hear of what was told")

    async def heard(self) -> int:
        async with self.inventory[1].reader() as reader:
            return int(await reader.scalar("SELECT count(*) FROM told"))

    async def _near(self) -> bool:
        return not self.going_on or self.told - await self.heard() < AHEAD

    async def goes_on(self) -> None:
        """Events come all the way, from now on, through what servers are left."""
        wanted = await self.heard() + BETWEEN

        async def more() -> bool:
            return await self.heard() > wanted

        await until(more, PATIENCE_S, f"{BETWEEN} more events")

    async def all_heard(self) -> bool:
        return await self.heard() >= self.told

    async def leader(self) -> int:
        asking = JetStreamBus(self.bus.url(admin("orders")))
        await asking.start()
        try:
            return await until(lambda: _leader(asking), PATIENCE_S) - 1
        finally:
            await asking.close()

    def connected(self, bus: JetStreamBus) -> int | None:
        """With which of the servers."""
        connection = bus.wire._connection
        if connection is None or connection.transport is None:
            return None
        return [member.port for member in self.bus.members].index(connection.transport.get_extra_info("peername")[1])


async def _leader(asking: JetStreamBus) -> int:
    """Its number from 1, once all three are up to date; 0 before that."""
    try:
        found = json.loads(await asking.request("$JS.API.STREAM.INFO.orders", timeout_s=1))["cluster"]
    except BusOutage:
        return 0
    if not all(map(up_to_date, found["replicas"])):
        return 0
    return int(found["leader"].removeprefix("nats-")) + 1


@contextlib.asynccontextmanager
async def traffic(bus: Bus, folder: Path) -> AsyncIterator[Traffic]:
    ends: list[tuple[Kind, Database, JetStreamBus]] = []
    for name in ("orders", "inventory"):
        kind = kind_of("sqlite", f"sqlite://{folder}/{name}.sqlite")
        database, connection = kind.database(encode), JetStreamBus(bus.url(name))
        await database.open()
        await database.migrate(None)
        await kind.create(database)
        await connection.start()
        ends.append((kind, database, connection))
    running = Traffic(bus, ends[0], ends[1])
    running.start()
    try:
        yield running
    finally:
        for loops in running.loops:
            await loops.stop()
        for _, database, connection in ends:
            await connection.close()
            await database.close()


async def test_three_servers_of_which_one_dies_one_is_cut_off_and_one_stands_still_lose_and_double_nothing(
    tmp_path: Path,
) -> None:
    async with three_servers(tmp_path / "bus", shop_on_the_bus()) as bus, traffic(bus, tmp_path) as running:
        telling = asyncio.create_task(running.tell())
        await running.goes_on()

        dying = await running.leader()
        bus.members[dying].kill()
        await running.goes_on()
        await bus.members[dying].start()

        cut_off = await running.leader()
        bus.cut_off(cut_off)
        await running.goes_on()
        assert running.connected(running.orders[2]) != cut_off
        bus.join(cut_off)

        await running.leader()
        still = running.connected(running.inventory[2]) or 0
        await bus.members[still].stand_still()
        await running.goes_on()
        bus.members[still].go_on()
        await running.goes_on()

        running.going_on = False
        await telling
        await until(running.all_heard, PATIENCE_S, "inventory to hear of everything")
        async with running.inventory[1].reader() as reader:
            history = await running.inventory[0].history(reader)
        in_order = list(range(1, running.told // len(KEYS) + 1))
        assert {key: [n for one, n in history if one == key] for key in KEYS} == dict.fromkeys(KEYS, in_order)
        assert await running.orders[1].journal.outbox(1) == []
