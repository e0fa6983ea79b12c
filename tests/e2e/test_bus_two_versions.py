"""While two versions of a service run, its user of the bus may what either does; then only what the new one does."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Message
from atoll.errors import BusOutage
from atoll.provision.job import CANARIES_FOLDER, CONTRACTS_FOLDER, FORMER_FOLDER, SYSTEM_FILE
from atoll.provision.nats import administers
from atoll.system.contract import Contract
from atoll.system.plan import BusPlan
from tests.support.contracts import contract
from tests.support.engines import ProvisionedBus, provisioned_bus

INVENTORY = contract("inventory", ["stock_reserved", "stock_counted"])
CATALOG = contract("catalog", ["price_changed"])
OLD = contract("orders", ["order_placed"], ["catalog.price_changed", "inventory.stock_reserved", "inventory.stock_counted"])
NEW = contract("orders", ["order_placed"], ["inventory.stock_reserved"])
SYSTEM = {"name": "shop", "services": {"orders": {"kind": "service", "prefix": "/orders"}}}
NOW = 1_800_000_000.0


@dataclass
class Deployed:
    """A bus as a container host has it: nats.conf was rendered, and `atoll provision` reads the rest from files."""

    bus: ProvisionedBus
    folder: Path

    async def provision(self, orders: Contract, former: Iterable[Contract] = (), tried: Iterable[Contract] = ()) -> list[str]:
        """Rendered for these, and what provision said then."""
        contracts, beside = {"inventory": INVENTORY, "catalog": CATALOG, "orders": orders}, tuple(former)
        plan = BusPlan.of(contracts, beside=(*beside, *tried))
        administrator = replace(self.bus.changed(contracts), plan=plan)
        administrator.write(self.bus.server.configuration)
        self._write(CONTRACTS_FOLDER, {f"{name}.json": one.document for name, one in contracts.items()})
        self._write(CANARIES_FOLDER, {f"{one.service}.json": one.document for one in tried})
        self._write(FORMER_FOLDER, {f"{one.service}.{one.digest}.json": one.document for one in beside})
        self._write(".", {SYSTEM_FILE: SYSTEM})
        return await self.again()

    async def again(self) -> list[str]:
        """As each night."""
        passwords = self.bus.administrator.passwords
        told = {
            "ATOLL_PROVISION_DIR": str(self.folder),
            "ATOLL_BUS_ADDRESS": f"127.0.0.1:{self.bus.server.port}",
            "ATOLL_BUS_USERS": json.dumps({user: one for user, one in passwords.items() if administers(user)}),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "atoll", "provision"),
            env={**os.environ, **told},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 90)
        assert process.returncode == 0, said.decode()
        return said.decode().splitlines()

    def _write(self, name: str, files: Mapping[str, Any]) -> None:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        for before in folder.glob("*.json"):
            before.unlink()
        for file, document in files.items():
            (folder / file).write_text(json.dumps(document))

    @asynccontextmanager
    async def replica(self, orders: Contract, slot: str, beat: float = NOW) -> AsyncIterator[JetStreamBus]:
        """Of that version, in the registry until it leaves."""
        bus = await self.enter("orders")
        entry = {"service": "orders", "replica": slot, "address": "127.0.0.1:1", "digest": orders.digest, "beat": beat}
        await bus.request(f"$KV.registry.orders.{slot}", json.dumps(entry).encode())
        yield bus
        await bus.request(f"$KV.registry.orders.{slot}", b"", b"KV-Operation: DEL\r\n")
        await bus.close()

    async def enter(self, user: str) -> JetStreamBus:
        bus = JetStreamBus(self.bus.url(user))
        await bus.start()
        assert await bus.wait_connected(5)
        return bus

    async def publish(self, service: str, event: str, body: bytes) -> None:
        bus = await self.enter(service)
        await bus.publish([Message(f"event.{service}.{event}.0", b"", body)])
        await bus.close()


@asynccontextmanager
async def deployed(folder: Path) -> AsyncIterator[Deployed]:
    contracts = {"inventory": INVENTORY, "catalog": CATALOG, "orders": OLD}
    async with provisioned_bus(folder / "bus", contracts) as bus:
        found = Deployed(bus, folder / "provision")
        await found.provision(OLD)
        yield found


async def test_an_old_replica_goes_on_consuming_until_it_has_left_and_then_nobody_may(tmp_path: Path) -> None:
    async with deployed(tmp_path) as shop, shop.replica(NEW, "orders-2") as newer:
        async with shop.replica(OLD, "orders-1") as older:
            assert await shop.provision(NEW, [OLD]) == [
                f"orders: replicas of the contract {OLD.digest} may still consume what it does",
                "contracts announced",
            ]
            await shop.publish("catalog", "price_changed", b"cheaper")
            await shop.publish("inventory", "stock_counted", b"seven")
            prices, stock = older.source("catalog", "orders"), older.source("inventory", "orders")
            await prices.reset(1)
            await stock.reset(1)
            assert [event.body for event in await prices.pull(10, 5)] == [b"cheaper"]
            assert [event.body for event in await stock.pull(10, 5)] == [b"seven"]

        assert "catalog/orders: this durable is deleted, nobody uses it any more" in await shop.again()
        with pytest.raises(BusOutage):
            await newer.source("catalog", "orders").reset(1, timeout_s=1)
        await shop.publish("inventory", "stock_counted", b"eight")
        await shop.publish("inventory", "stock_reserved", b"kept")
        stock = newer.source("inventory", "orders")
        await stock.reset(1)
        assert [event.body for event in await stock.pull(10, 5)] == [b"kept"]


async def test_what_is_rendered_when_all_have_left_lets_the_server_itself_refuse(tmp_path: Path) -> None:
    async with deployed(tmp_path) as shop, shop.replica(NEW, "orders-2") as newer:
        await shop.provision(NEW, [OLD])
        assert "MSG.NEXT.catalog.orders" in shop.bus.server.configuration.read_text()
        assert await shop.provision(NEW) == ["nothing to do"]
        assert "MSG.NEXT.catalog.orders" not in shop.bus.server.configuration.read_text()
        with pytest.raises(BusOutage):
            await newer.source("catalog", "orders").reset(1, timeout_s=1)


async def test_before_the_first_new_replica_has_come_nothing_is_taken_away(tmp_path: Path) -> None:
    """All old ones may be down for a moment, and come back."""
    async with deployed(tmp_path) as shop:
        assert "still consume" in (await shop.provision(NEW, [OLD]))[0]


async def test_an_old_replica_that_was_killed_does_not_count_for_ever(tmp_path: Path) -> None:
    async with deployed(tmp_path) as shop, shop.replica(OLD, "orders-1", NOW - 60), shop.replica(NEW, "orders-2"):
        assert "catalog/orders: this durable is deleted, nobody uses it any more" in await shop.provision(NEW, [OLD])


async def test_the_way_back_finds_what_was_published_meanwhile(tmp_path: Path) -> None:
    async with deployed(tmp_path) as shop:
        async with shop.replica(NEW, "orders-2"):
            await shop.provision(NEW, [OLD])
            await shop.publish("catalog", "price_changed", b"meanwhile")
        async with shop.replica(OLD, "orders-1") as older:
            assert "durable catalog/orders made" in await shop.provision(OLD)
            prices = older.source("catalog", "orders")
            await prices.reset(1)
            assert [event.body for event in await prices.pull(10, 5)] == [b"meanwhile"]


async def test_an_event_that_only_the_former_contract_published_still_leaves_the_outbox(tmp_path: Path) -> None:
    """Each service publishes what it likes in its own name: an outbox that waits for a permission would wait for ever."""
    async with deployed(tmp_path) as shop:
        await shop.provision(contract("orders"))
        await shop.publish("orders", "order_placed", b"late")


async def test_a_canary_consumes_what_it_alone_does_and_its_contract_is_announced_beside(tmp_path: Path) -> None:
    async with deployed(tmp_path) as shop, shop.replica(NEW, "orders-1"):
        await shop.provision(NEW)
        assert "durable catalog/orders made" in await shop.provision(NEW, tried=[OLD])
        async with shop.replica(OLD, "orders-canary-1") as canary:
            await shop.publish("catalog", "price_changed", b"tried")
            prices = canary.source("catalog", "orders")
            await prices.reset(1)
            assert [event.body for event in await prices.pull(10, 5)] == [b"tried"]
            gateway = await shop.enter("gateway")
            entries = await gateway.latest("KV_contracts", "$KV.contracts.>")
            (found,) = (entry for entry in entries if entry.subject == "$KV.contracts.system")
            assert json.loads(found.body)["services"]["orders"]["digests"] == [NEW.digest, OLD.digest]
            await gateway.close()
        assert "catalog/orders: this durable is deleted, nobody uses it any more" in await shop.provision(NEW)
