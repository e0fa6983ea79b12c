"""Writes down every event of the shop, in the order it was handled. Drills add it to the shop: it forgives nothing."""

from __future__ import annotations

from msgspec import Struct

from atoll import Delivery, Service
from atoll.sqlite import Transaction

service = Service("witness", database="sqlite")


class AboutOrder(Struct, frozen=True):
    order_id: str


async def write_down(event: AboutOrder, delivery: Delivery, tx: Transaction) -> None:
    await tx.execute(
        "INSERT INTO entry (event_id, type, order_id) VALUES ($1, $2, $3)", delivery.id, delivery.type, event.order_id
    )


for event_type in (
    "orders.order_placed",
    "orders.order_confirmed",
    "orders.order_cancelled",
    "inventory.stock_reserved",
    "inventory.stock_rejected",
    "inventory.stock_released",
    "payments.payment_authorized",
    "payments.payment_declined",
    "payments.payment_refunded",
):
    service.on(event_type)(write_down)
