"""What inventory does: with a real database, and events in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from inventory.events import StockRejected, StockReleased, StockReserved
from inventory.service import service

from atoll.testing import UnderTest, under_test

Level = tuple[int, int, int]


@pytest.fixture
async def inventory() -> AsyncIterator[UnderTest]:
    async with under_test(service, settings={"initial_stock": 10}) as inventory:
        for sku in ("mug", "bowl"):
            await inventory.deliver("catalog.product_added", {"sku": sku, "name": sku, "price": "1.00", "currency": "EUR"})
        yield inventory


def order(**lines: int) -> dict[str, Any]:
    return {
        "order_id": str(uuid4()),
        "customer_id": "ada",
        "lines": [{"sku": sku, "quantity": quantity} for sku, quantity in lines.items()],
        "total": "25.00",
        "currency": "EUR",
        "payment_method": "card-ok",
    }


async def level(inventory: UnderTest, sku: str = "mug") -> Level:
    """on_hand, reserved, available"""
    found = (await inventory.client.get(f"/inventory/{sku}")).json()
    return found["on_hand"], found["reserved"], found["available"]


async def test_an_order_holds_its_stock_and_tells_all_that_a_payment_needs(inventory: UnderTest) -> None:
    placed = order(mug=3, bowl=1)
    await inventory.deliver("orders.order_placed", placed)
    [event] = inventory.published
    assert isinstance(event, StockReserved)
    assert (str(event.order_id), event.customer_id) == (placed["order_id"], "ada")
    assert (str(event.total), event.currency, event.payment_method) == ("25.00", "EUR", "card-ok")
    assert await level(inventory) == (10, 3, 7)
    assert await level(inventory, "bowl") == (10, 1, 9)


async def test_an_order_holds_all_its_lines_or_none(inventory: UnderTest) -> None:
    await inventory.deliver("orders.order_placed", order(mug=3, bowl=11, unicorn=1))
    [event] = inventory.published
    assert isinstance(event, StockRejected)
    assert [(one.sku, one.requested, one.available) for one in event.missing] == [("bowl", 11, 10), ("unicorn", 1, 0)]
    assert await level(inventory) == (10, 0, 10)


async def test_the_last_piece_is_held_for_one_order_only(inventory: UnderTest) -> None:
    for _ in range(3):
        await inventory.deliver("orders.order_placed", order(mug=4))
    assert [type(event) for event in inventory.published] == [StockReserved, StockReserved, StockRejected]
    assert await level(inventory) == (10, 8, 2)


async def test_a_confirmed_order_takes_what_it_held_once(inventory: UnderTest) -> None:
    placed = order(mug=3)
    await inventory.deliver("orders.order_placed", placed)
    for _ in range(2):
        await inventory.deliver("orders.order_confirmed", placed)
    assert await level(inventory) == (7, 0, 7)


@pytest.mark.parametrize("events", [["cancelled"], ["declined"], ["cancelled", "declined"], ["declined", "cancelled"]])
async def test_a_cancelled_or_unpaid_order_gives_back_what_it_held_once(inventory: UnderTest, events: list[str]) -> None:
    names = {"cancelled": "orders.order_cancelled", "declined": "payments.payment_declined"}
    placed = order(mug=3)
    await inventory.deliver("orders.order_placed", placed)
    for event in events:
        await inventory.deliver(names[event], placed)
    assert [type(event) for event in inventory.published] == [StockReserved, StockReleased]
    assert await level(inventory) == (10, 0, 10)


async def test_an_order_that_was_refused_has_nothing_to_give_back(inventory: UnderTest) -> None:
    placed = order(mug=11)
    await inventory.deliver("orders.order_placed", placed)
    await inventory.deliver("orders.order_cancelled", placed)
    assert [type(event) for event in inventory.published] == [StockRejected]
    assert await level(inventory) == (10, 0, 10)


async def test_an_order_that_was_cancelled_first_holds_nothing_later(inventory: UnderTest) -> None:
    placed = order(mug=3)
    await inventory.deliver("orders.order_cancelled", placed)
    await inventory.deliver("orders.order_placed", placed)
    assert inventory.published == []
    assert await level(inventory) == (10, 0, 10)


async def test_a_product_that_is_added_again_keeps_its_stock(inventory: UnderTest) -> None:
    staff = inventory.as_user("grace", scopes=["inventory:write"])
    assert (await staff.put("/inventory/mug", json={"on_hand": 42})).json()["available"] == 42
    await inventory.deliver("catalog.product_added", {"sku": "mug"})
    assert await level(inventory) == (42, 0, 42)


async def test_staff_set_what_was_counted_but_not_below_what_is_held(inventory: UnderTest) -> None:
    await inventory.deliver("orders.order_placed", order(mug=3))
    staff = inventory.as_user("grace", scopes=["inventory:write"])
    assert (await staff.put("/inventory/mug", json={"on_hand": 2})).status_code == 409
    answer = await staff.put("/inventory/mug", json={"on_hand": 3})
    assert answer.json() == {"sku": "mug", "on_hand": 3, "reserved": 3, "available": 0}
    assert (await staff.put("/inventory/new", json={"on_hand": 5})).json()["on_hand"] == 5


async def test_counting_needs_the_right_and_a_sensible_number(inventory: UnderTest) -> None:
    customer = inventory.as_user("ada", scopes=["orders:write"])
    assert (await customer.put("/inventory/mug", json={"on_hand": 1})).status_code == 403
    staff = inventory.as_user("grace", scopes=["inventory:write"])
    assert (await staff.put("/inventory/mug", json={"on_hand": -1})).status_code == 422
    assert (await staff.put("/inventory/mug", json={"on_hand": 1, "reserved": 0})).status_code == 422
    assert await level(inventory) == (10, 0, 10)


async def test_everybody_sees_the_stock_of_what_there_is(inventory: UnderTest) -> None:
    assert (await inventory.client.get("/inventory/unicorn")).status_code == 404
