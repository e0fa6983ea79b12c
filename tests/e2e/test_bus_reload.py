"""A running bus follows the contracts: what is added works at once, what goes on does not notice."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Message
from atoll.errors import BusOutage
from atoll.provision.bus import Made
from tests.support.contracts import contract, shop_on_the_bus
from tests.support.engines import provisioned_bus
from tests.support.waiting import until


async def enter(url: str) -> JetStreamBus:
    bus = JetStreamBus(url)
    await bus.start()
    assert await bus.wait_connected(5)
    return bus


def placed(number: int) -> Message:
    return Message("event.orders.order_placed.0", f"Nats-Msg-Id: {number}\r\n".encode(), b"%d" % number)


async def test_an_added_service_is_usable_at_once_and_nobody_else_notices(tmp_path: Path) -> None:
    before = shop_on_the_bus()
    async with provisioned_bus(tmp_path, before) as bus:
        orders, inventory = await enter(bus.url("orders")), await enter(bus.url("inventory"))
        await orders.publish([placed(1)])
        source = inventory.source("orders", "inventory")
        await source.reset(1)
        assert [event.body for event in await source.pull(10, 5)] == [b"1"]

        late = contract("late", ["thing_done"], ["orders.order_placed", "auth.user_registered"])
        bus.changed({**before, "late": late})
        made = await bus.apply()
        newcomer = await enter(bus.url("late"))
        history = newcomer.source("orders", "late")
        await history.reset(1)
        await newcomer.publish([Message("event.late.thing_done.0", b"", b"x")])
        await orders.publish([placed(2)])

        assert [event.body for event in await history.pull(1, 5) + await history.pull(10, 5)] == [b"1", b"2"]
        assert [event.body for event in await source.pull(10, 5)] == [b"2"]
        assert (orders.wire.reconnects, inventory.wire.reconnects) == (0, 0)
        assert stat.S_IMODE(bus.server.configuration.stat().st_mode) == 0o600
        assert set(made.changes) == {"stream late made", "durable orders/late made", "durable auth/late made"}
        assert await newcomer.latest("keys", "keys.>") == []
        await newcomer.request("$KV.registry.late.late-1", b"here")
        for each in (orders, inventory, newcomer):
            await each.close()


async def test_an_added_subscription_of_a_running_service_works_without_a_reconnect(tmp_path: Path) -> None:
    before = shop_on_the_bus()
    async with provisioned_bus(tmp_path, before) as bus:
        reviews, orders = await enter(bus.url("reviews")), await enter(bus.url("orders"))
        with pytest.raises(BusOutage):
            await reviews.source("inventory", "reviews").reset(1, timeout_s=1)
        source = reviews.source("orders", "reviews")
        await source.reset(1)

        more = ["orders.order_placed", "orders.order_cancelled", "inventory.stock_reserved"]
        bus.changed({**before, "reviews": contract("reviews", [], more)})
        made = await bus.apply()
        assert set(made.changes) == {"durable orders/reviews changed", "durable inventory/reviews made"}
        added = reviews.source("inventory", "reviews")
        await added.reset(1)
        await orders.publish([placed(1), Message("event.orders.order_cancelled.0", b"", b"2")])

        taken = await source.pull(1, 5)
        taken += await source.pull(10, 5)
        assert [event.body for event in taken] == [b"1", b"2"]
        assert reviews.wire.reconnects == 0
        for each in (orders, reviews):
            await each.close()


async def test_a_removed_subscription_is_refused_and_its_durable_kept_until_it_is_pruned(tmp_path: Path) -> None:
    before = shop_on_the_bus()
    async with provisioned_bus(tmp_path, before) as bus:
        reviews = await enter(bus.url("reviews"))
        bus.changed({**before, "reviews": contract("reviews")})
        made = await bus.apply()
        assert made == Made([], ["orders/reviews"])
        with pytest.raises(BusOutage):
            await reviews.source("orders", "reviews").reset(1, timeout_s=1)

        assert await bus.administrator.make(prune=True) == Made(["durable orders/reviews deleted"], [])
        assert await bus.apply() == Made([], [])
        await reviews.close()


async def test_a_removed_service_is_shut_out_and_finds_its_events_when_it_comes_back(tmp_path: Path) -> None:
    before = shop_on_the_bus()
    async with provisioned_bus(tmp_path, before) as bus:
        inventory = await enter(bus.url("inventory"))
        await inventory.publish([Message("event.inventory.stock_reserved.0", b"", b"kept")])
        bus.changed({name: each for name, each in before.items() if name != "inventory"})
        await bus.apply()
        await until(lambda: not inventory.connected)
        await inventory.close()

        bus.changed(before)
        assert await bus.apply() == Made([], [])
        payments = await enter(bus.url("payments"))
        source = payments.source("inventory", "payments")
        await source.reset(1)
        assert [event.body for event in await source.pull(10, 5)] == [b"kept"]
        await payments.close()


async def test_a_configuration_the_server_refuses_leaves_the_former_in_force(tmp_path: Path) -> None:
    async with provisioned_bus(tmp_path, shop_on_the_bus()) as bus:
        bus.server.configuration.write_text("accounts { broken")
        with pytest.raises(BusOutage, match="refused its configuration"):
            await bus.administrator.reload()
        orders = await enter(bus.url("orders"))
        await orders.publish([placed(1)])
        await orders.close()
        assert await bus.apply() == Made([], [])


async def test_contracts_are_published_whole_and_old_ones_stay_while_a_replica_has_them(tmp_path: Path) -> None:
    contracts = shop_on_the_bus()
    system = {"name": "shop", "services": {name: {"kind": "service", "prefix": f"/{name}"} for name in contracts}}
    async with provisioned_bus(tmp_path, contracts) as bus:
        gateway, orders = await enter(bus.url("gateway")), await enter(bus.url("orders"))
        heard: list[str] = []
        gateway.subscribe("$KV.contracts.>", lambda received: heard.append(received.subject.removeprefix("$KV.contracts.")))
        await gateway.latest("KV_contracts", "$KV.contracts.>")
        assert await bus.administrator.announce(system, contracts)
        assert not await bus.administrator.announce(system, contracts)
        await until(lambda: heard[-1:] == ["system"])

        old = contracts["orders"].digest
        entry = f'{{"service":"orders","replica":"orders-1","address":"127.0.0.1:1","digest":"{old}"}}'
        await orders.request("$KV.registry.orders.orders-1", entry.encode())
        after = {**contracts, "orders": contract("orders", ["order_placed"])}
        heard.clear()
        assert await bus.administrator.announce(system, after)
        await until(lambda: heard == [f"orders.{after['orders'].digest}", "system"])
        await orders.request("$KV.registry.orders.orders-1", b"", b"KV-Operation: DEL\r\n")
        heard.clear()
        assert await bus.administrator.announce(system, after)
        await until(lambda: heard == ["system", f"orders.{old}"])
        for each in (gateway, orders):
            await each.close()


async def test_purging_spares_what_a_durable_has_not_acknowledged_and_what_is_young(tmp_path: Path) -> None:
    contracts = {"orders": contract("orders", ["order_placed"]), "reviews": contract("reviews", [], ["orders.order_placed"])}
    async with provisioned_bus(tmp_path, contracts) as bus:
        orders, reviews = await enter(bus.url("orders")), await enter(bus.url("reviews"))
        await orders.publish([placed(number) for number in range(10)])
        assert await bus.administrator.purge(0) == {}
        source = reviews.source("orders", "reviews")
        await source.reset(1)
        await source.pull(10, 5)
        source.acknowledge(4)
        assert await bus.administrator.purge(3600) == {}

        async def purged() -> bool:
            return await bus.administrator.purge(0) == {"orders": 4}

        await until(purged)
        position = await source.reset(1)
        left: list[int] = []
        while len(left) < 6:
            left += [event.sequence for event in await source.pull(10, 5)]
        assert left == [5, 6, 7, 8, 9, 10]
        assert position.last_sequence == 10
        for each in (orders, reviews):
            await each.close()


async def test_a_subscription_added_to_a_stream_that_is_read_already_is_said_to_start_now(tmp_path: Path) -> None:
    before = shop_on_the_bus()
    async with provisioned_bus(tmp_path, before) as bus:
        orders, reviews = await enter(bus.url("orders")), await enter(bus.url("reviews"))
        await orders.publish([placed(1)])
        source = reviews.source("orders", "reviews")
        await source.reset(1)
        assert await source.pull(10, 5)

        bus.changed({**before, "reviews": contract("reviews", [], ["orders.order_placed", "orders.order_cancelled"])})
        made = await bus.apply()
        assert made.late == ["reviews ← orders.order_cancelled"]
        assert (await bus.apply()).late == []
        for each in (orders, reviews):
            await each.close()


async def test_a_running_bus_refuses_all_of_a_configuration_in_which_it_would_store_in_another_way(tmp_path: Path) -> None:
    """So who renders for containers sees to it that it is started anew then (contract/test_deploy_kubernetes.py)."""
    before = shop_on_the_bus()
    async with provisioned_bus(tmp_path, before) as bus:
        late = contract("late", ["thing_done"], [])
        changed = bus.changed({**before, "late": late})
        bus.administrator = replace(changed, server=replace(changed.server, sync_always=True))
        with pytest.raises(BusOutage):
            await bus.apply()

        bus.server.kill()
        await bus.server.start()
        assert "stream late made" in (await bus.apply()).changes
