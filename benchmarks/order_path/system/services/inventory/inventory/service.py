"""Takes stock away, and writes one ledger row per decrement from which losses and duplicates are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from atoll import Service
from inventory.kind import KIND

if TYPE_CHECKING:
    from atoll.sqlite import Transaction
else:
    from atoll import Transaction  # whichever the database has: both take the same statements

service = Service("inventory", database=KIND)


class OrderPlaced(Struct):
    order_id: str
    sku: str
    qty: int


class Stock(Struct):
    sku: str
    on_hand: int


@service.on("orders.order_placed")
async def take_stock(event: OrderPlaced, tx: Transaction) -> None:
    await tx.execute("UPDATE stock SET on_hand = on_hand - $1 WHERE sku = $2", event.qty, event.sku)
    await tx.execute("INSERT INTO movements (order_id, qty) VALUES ($1, $2)", event.order_id, event.qty)


@service.get("/inventory/{sku}", public=True)
async def stock(sku: str, tx: Transaction) -> Stock:
    return await tx.one(Stock, "SELECT sku, on_hand FROM stock WHERE sku = $1", sku)
