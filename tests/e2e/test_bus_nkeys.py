"""Users of the bus who sign instead of sending a password, on a real nats-server."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.bus import nkeys
from atoll.bus.endpoint import Endpoint
from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Message
from atoll.errors import BusOutage, SystemMistake
from tests.support.contracts import shop_on_the_bus
from tests.support.engines import ProvisionedBus, provisioned_bus

# Of nats.io's documentation.
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
PUBLIC = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"


def seed_of(user: str) -> str:
    return nkeys.seed(hashlib.sha256(user.encode()).digest())


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[ProvisionedBus]:
    async with provisioned_bus(tmp_path / "nats", shop_on_the_bus(), seed_of) as provisioned:
        yield provisioned


async def enters(url: str) -> bool:
    connection = JetStreamBus(url)
    await connection.start()
    try:
        return await connection.wait_connected(2)
    finally:
        await connection.close()


async def test_events_pass_from_one_to_another(bus: ProvisionedBus) -> None:
    inventory, payments = JetStreamBus(bus.url("inventory")), JetStreamBus(bus.url("payments"))
    for each in (inventory, payments):
        await each.start()
        assert await each.wait_connected(5)
    await inventory.publish([Message("event.inventory.stock_reserved.0", b"", b"reserved")])
    source = payments.source("inventory", "payments")
    await source.reset(1)
    assert [event.body for event in await source.pull(10, 5)] == [b"reserved"]
    with pytest.raises(BusOutage):
        await payments.publish([Message("event.inventory.stock_reserved.0", b"", b"forged")], timeout_s=1)
    await inventory.close()
    await payments.close()


async def test_the_configuration_holds_nothing_that_anybody_could_enter_with(bus: ProvisionedBus) -> None:
    text = bus.server.configuration.read_text()
    assert "password" not in text
    assert not [user for user in ("orders", "orders-admin", "gateway", "sys") if seed_of(user) in text]
    assert nkeys.public(seed_of("orders")) in text
    assert not await enters(bus.server.url("orders", nkeys.public(seed_of("orders"))))
    assert not await enters(bus.server.url("orders", nkeys.seed()))
    assert await enters(bus.url("orders"))


def test_keys_are_those_of_every_other_client() -> None:
    assert nkeys.public(SEED) == PUBLIC


def test_a_seed_never_leaves() -> None:
    proof = Endpoint.parse(f"nats://orders:{SEED}@bus").proof("a-nonce")
    assert proof.keys() == {"nkey", "sig"}
    assert proof["nkey"] == PUBLIC
    assert SEED not in repr(proof)


@pytest.mark.parametrize("damaged", [SEED[:-1] + "A", SEED[:20] + "A" + SEED[21:], SEED[:-1] + "1"])
def test_a_damaged_seed_is_refused_and_not_shown(damaged: str) -> None:
    with pytest.raises(SystemMistake, match="seed of the bus is damaged") as refused:
        nkeys.public(damaged)
    assert damaged not in str(refused.value)
