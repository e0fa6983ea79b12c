"""An order as customers see it, and the only two ways in which one ends."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from msgspec import Struct

from atoll.postgresql import Transaction
from orders.events import OrderCancelled, OrderConfirmed

__all__ = ["COLUMNS", "Line", "Order", "Status", "cancel", "confirm"]

Status = Literal["pending", "confirmed", "cancelled"]


class Line(Struct, frozen=True):
    """One product, at the name and price it had when it was ordered."""

    sku: str
    name: str
    quantity: int
    price: Decimal
    total: Decimal


class Order(Struct, frozen=True):
    """`total` includes `vat`. `reason` says why a cancelled order was cancelled."""

    id: UUID
    status: Status
    lines: list[Line]
    total: Decimal
    vat: Decimal
    currency: str
    payment_method: str
    reason: str | None
    created_at: datetime
    stock_reserved_at: datetime | None
    settled_at: datetime | None


COLUMNS = ", ".join(Order.__struct_fields__)


class _Ended(Struct, frozen=True):
    customer_id: str
    total: Decimal
    currency: str


async def confirm(tx: Transaction, order_id: UUID) -> None:
    """Confirms it if it is still pending; an order that ended before stays as it ended."""
    if ended := await _end(tx, order_id, "confirmed", None):
        await tx.publish(
            OrderConfirmed(order_id=order_id, customer_id=ended.customer_id, total=ended.total, currency=ended.currency)
        )


async def cancel(tx: Transaction, order_id: UUID, reason: str) -> bool:
    """Cancels it if it is still pending; gives whether it was."""
    ended = await _end(tx, order_id, "cancelled", reason)
    if ended is not None:
        await tx.publish(OrderCancelled(order_id=order_id, customer_id=ended.customer_id, reason=reason))
    return ended is not None


async def _end(tx: Transaction, order_id: UUID, status: Status, reason: str | None) -> _Ended | None:
    # One statement both asks and changes: of two endings that race, the second one finds no pending order.
    return await tx.one_or_none(
        _Ended,
        """UPDATE orders SET status = $2, reason = $3, settled_at = now()
           WHERE id = $1 AND status = 'pending' RETURNING customer_id, total, currency""",
        order_id,
        status,
        reason,
    )
