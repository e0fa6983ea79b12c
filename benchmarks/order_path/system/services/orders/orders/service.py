"""Takes orders and says so on the bus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID, uuid4

from msgspec import Meta, Struct

from atoll import Event, Service
from orders.kind import KIND

if TYPE_CHECKING:
    from atoll.sqlite import Transaction
else:
    from atoll import Transaction  # whichever the database has: both take the same statements


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


service = Service("orders", database=KIND, publishes=[OrderPlaced])


@service.post("/orders")
async def place_order(order: NewOrder, tx: Transaction) -> Order:
    row = Order(str(uuid4()), order.sku, order.qty)
    await tx.execute("INSERT INTO orders (id, sku, qty) VALUES ($1, $2, $3)", row.id, row.sku, row.qty)
    await tx.publish(OrderPlaced(order_id=row.id, sku=row.sku, qty=row.qty))
    return row


@service.get("/orders/{id}")
async def order(id: UUID, tx: Transaction) -> Order:
    return await tx.one(Order, "SELECT id, sku, qty FROM orders WHERE id = $1", str(id))
