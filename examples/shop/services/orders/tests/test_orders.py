"""What orders does: with a real database, and events in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from orders.events import OrderCancelled, OrderConfirmed, OrderPlaced
from orders.service import service

from atoll.testing import UnderTest, under_test

SCOPES = ["orders:read", "orders:write"]
MUG = {"sku": "mug", "name": "Enamel mug", "price": "12.50", "currency": "EUR"}
BOWL = {"sku": "bowl", "name": "Driftwood bowl", "price": "40.00", "currency": "EUR"}


@pytest.fixture
async def orders() -> AsyncIterator[UnderTest]:
    async with under_test(service) as orders:
        for product in (MUG, BOWL):
            await orders.deliver("catalog.product_added", product)
        yield orders


def order_of(*lines: tuple[str, Any], payment_method: str = "card-ok") -> dict[str, Any]:
    return {"lines": [{"sku": sku, "quantity": quantity} for sku, quantity in lines], "payment_method": payment_method}


async def placed(orders: UnderTest, user: str = "ada") -> str:
    answer = await orders.as_user(user, scopes=SCOPES).post("/orders", json=order_of(("mug", 2)))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def status_of(orders: UnderTest, order_id: str, user: str = "ada") -> str:
    return str((await orders.as_user(user, scopes=SCOPES).get(f"/orders/{order_id}")).json()["status"])


async def test_an_order_is_placed_at_the_prices_of_the_day_and_told_to_everybody(orders: UnderTest) -> None:
    ada = orders.as_user("ada", scopes=SCOPES)
    answer = await ada.post("/orders", json=order_of(("mug", 2), ("bowl", 1)))
    assert answer.status_code == 201
    order = answer.json()
    assert (order["status"], order["total"], order["vat"], order["currency"]) == ("pending", "65.00", "5.91", "EUR")
    assert order["lines"][0] == {"sku": "mug", "name": "Enamel mug", "quantity": 2, "price": "12.50", "total": "25.00"}
    [event] = orders.published
    assert isinstance(event, OrderPlaced)
    assert (str(event.order_id), event.customer_id, str(event.total)) == (order["id"], "ada", "65.00")
    assert [(line.sku, line.quantity) for line in event.lines] == [("mug", 2), ("bowl", 1)]
    assert (await ada.get(f"/orders/{order['id']}")).json() == order


async def test_a_new_price_holds_for_new_orders_only(orders: UnderTest) -> None:
    order_id = await placed(orders)
    await orders.deliver("catalog.price_changed", {"sku": "mug", "price": "99.00", "currency": "EUR"})
    ada = orders.as_user("ada", scopes=SCOPES)
    assert (await ada.get(f"/orders/{order_id}")).json()["total"] == "25.00"
    assert (await ada.post("/orders", json=order_of(("mug", 1)))).json()["total"] == "99.00"


async def test_what_is_not_sold_or_not_sold_any_more_is_named_and_nothing_is_written(orders: UnderTest) -> None:
    await orders.deliver("catalog.product_retired", {"sku": "bowl"})
    ada = orders.as_user("ada", scopes=SCOPES)
    answer = await ada.post("/orders", json=order_of(("mug", 1), ("bowl", 1), ("unicorn", 1)))
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_sku")
    assert "bowl, unicorn" in answer.json()["detail"]
    assert (await ada.get("/orders")).json() == {"items": [], "next": None}
    assert orders.published == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (order_of(("mug", 0)), "lines[0].quantity"),
        (order_of(("mug", 1), ("bowl", -3)), "lines[1].quantity"),
        (order_of(("mug", 101)), "lines[0].quantity"),
        (order_of(("mug", 1.5)), "lines[0].quantity"),
        (order_of(("mug", "two")), "lines[0].quantity"),
        (order_of(("mug", 1), ("mug", 1)), "lines[1].sku"),
        (order_of(), "lines"),
        (order_of(*((f"sku-{n}", 1) for n in range(51))), "lines"),
        (order_of(("mug", 1), payment_method="cheque"), "payment_method"),
        ({**order_of(("mug", 1)), "total": "0.01"}, "total"),
    ],
)
async def test_a_faulty_order_names_the_faulty_field_and_writes_nothing(
    orders: UnderTest, body: dict[str, Any], field: str
) -> None:
    answer = await orders.as_user("ada", scopes=SCOPES).post("/orders", json=body)
    assert answer.status_code == 422, answer.text
    assert field in [fault["field"] for fault in answer.json()["errors"]]
    assert orders.published == []


async def test_a_paid_order_is_confirmed_once_however_often_it_is_said(orders: UnderTest) -> None:
    order_id = await placed(orders)
    await orders.deliver("inventory.stock_reserved", {"order_id": order_id})
    await orders.deliver("payments.payment_authorized", {"order_id": order_id})
    await orders.deliver("payments.payment_authorized", {"order_id": order_id})
    assert await status_of(orders, order_id) == "confirmed"
    assert [type(event) for event in orders.published] == [OrderPlaced, OrderConfirmed]


@pytest.mark.parametrize(
    ("event", "reason"), [("inventory.stock_rejected", "out_of_stock"), ("payments.payment_declined", "payment_declined")]
)
async def test_an_order_without_stock_or_payment_is_cancelled_with_the_reason(
    orders: UnderTest, event: str, reason: str
) -> None:
    order_id = await placed(orders)
    await orders.deliver(event, {"order_id": order_id})
    cancelled = orders.published[-1]
    assert isinstance(cancelled, OrderCancelled)
    assert (str(cancelled.order_id), cancelled.customer_id, cancelled.reason) == (order_id, "ada", reason)
    order = (await orders.as_user("ada", scopes=SCOPES).get(f"/orders/{order_id}")).json()
    assert (order["status"], order["reason"]) == ("cancelled", reason)


async def test_a_customer_cancels_while_it_is_pending_and_a_payment_that_comes_later_changes_nothing(
    orders: UnderTest,
) -> None:
    order_id = await placed(orders)
    ada = orders.as_user("ada", scopes=SCOPES)
    answer = await ada.post(f"/orders/{order_id}/cancellation")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    await orders.deliver("payments.payment_authorized", {"order_id": order_id})
    assert await status_of(orders, order_id) == "cancelled"
    assert [type(event) for event in orders.published] == [OrderPlaced, OrderCancelled]
    assert (await ada.post(f"/orders/{order_id}/cancellation")).status_code == 409


async def test_a_confirmed_order_can_not_be_cancelled(orders: UnderTest) -> None:
    order_id = await placed(orders)
    await orders.deliver("payments.payment_authorized", {"order_id": order_id})
    assert (await orders.as_user("ada", scopes=SCOPES).post(f"/orders/{order_id}/cancellation")).status_code == 409
    await orders.deliver("payments.payment_declined", {"order_id": order_id})
    assert await status_of(orders, order_id) == "confirmed"


async def test_the_orders_of_others_do_not_exist(orders: UnderTest) -> None:
    order_id = await placed(orders, "ada")
    eve = orders.as_user("eve", scopes=SCOPES)
    assert (await eve.get(f"/orders/{order_id}")).status_code == 404
    assert (await eve.post(f"/orders/{order_id}/cancellation")).status_code == 404
    assert (await eve.get("/orders")).json()["items"] == []
    assert (await eve.get(f"/orders/{uuid4()}")).status_code == 404


async def test_the_list_is_newest_first_and_can_be_paged(orders: UnderTest) -> None:
    made = [await placed(orders) for _ in range(5)]
    ada = orders.as_user("ada", scopes=SCOPES)
    first = (await ada.get("/orders", params={"limit": 3})).json()
    second = (await ada.get("/orders", params={"limit": 3, "after": first["next"]})).json()
    assert [order["id"] for order in first["items"] + second["items"]] == made[::-1]
    assert second["next"] is None
    assert (await ada.get("/orders", params={"after": "yesterday"})).status_code == 422


async def test_every_operation_needs_its_scope(orders: UnderTest) -> None:
    order_id = await placed(orders)
    reader = orders.as_user("ada", scopes=["orders:read"])
    writer = orders.as_user("ada", scopes=["orders:write"])
    assert (await reader.post("/orders", json=order_of(("mug", 1)))).status_code == 403
    assert (await reader.post(f"/orders/{order_id}/cancellation")).status_code == 403
    assert (await writer.get("/orders")).status_code == 403
