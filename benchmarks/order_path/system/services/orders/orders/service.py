"""Takes orders and says so on the bus."""

from __future__ import annotations

import os
from typing import Annotated
from uuid import UUID, uuid4

from msgspec import Meta, Struct

from atoll import Event, Service, Transaction


class OrderPlaced(Event, name="order_placed", key="order_id"):
    order_id: str
    sku: str
    qty: int


class NewOrder(Struct, forbid_unknown_fields=True):
    sku: Annotated[str, Meta(min_length=1, max_length=64)]
    qty: Annotated[int, Meta(ge=1, le=1000)]


class Order(Struct):
    id: str
    sku: str
    qty: int


service = Service("orders", database=os.environ.get("ORDER_PATH_DATABASE", "sqlite"), publishes=[OrderPlaced])


@service.post("/orders")
async def place_order(order: NewOrder, tx: Transaction) -> Order:
    row = Order(str(uuid4()), order.sku, order.qty)
    await tx.execute("INSERT INTO orders (id, sku, qty) VALUES ($1, $2, $3)", row.id, row.sku, row.qty)
    await tx.publish(OrderPlaced(order_id=row.id, sku=row.sku, qty=row.qty))
    return row


@service.get("/orders/{id}")
async def order(id: UUID, tx: Transaction) -> Order:
    return await tx.one(Order, "SELECT id, sku, qty FROM orders WHERE id = $1", str(id))
