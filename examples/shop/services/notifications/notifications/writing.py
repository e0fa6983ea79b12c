"""How an order ended becomes one message. An order ends once, so a second message about it changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from msgspec import Struct

from atoll import Router
from atoll.sqlite import Transaction

__all__ = ["router"]

router = Router()

_REASONS = {
    "out_of_stock": "there is not enough of it in stock",
    "payment_declined": "your card was declined",
    "cancelled_by_customer": "you cancelled it",
}


class OrderConfirmed(Struct, frozen=True):
    order_id: UUID
    customer_id: str
    total: Decimal
    currency: str


class OrderCancelled(Struct, frozen=True):
    order_id: UUID
    customer_id: str
    reason: str


class Draft(Struct, frozen=True):
    customer_id: str
    order_id: UUID
    kind: str
    text: str


@router.on("orders.order_confirmed")
async def tell_confirmed(event: OrderConfirmed, tx: Transaction) -> None:
    text = f"Your order over {event.total} {event.currency} is confirmed."
    await _write(tx, Draft(event.customer_id, event.order_id, "order_confirmed", text))


@router.on("orders.order_cancelled")
async def tell_cancelled(event: OrderCancelled, tx: Transaction) -> None:
    text = f"Your order was cancelled: {_REASONS.get(event.reason, event.reason)}."
    await _write(tx, Draft(event.customer_id, event.order_id, "order_cancelled", text))


async def _write(tx: Transaction, draft: Draft) -> None:
    await tx.execute(
        """INSERT INTO messages (customer_id, order_id, kind, text, created_at)
           VALUES ($1, $2, $3, $4, $5) ON CONFLICT (order_id) DO NOTHING""",
        draft.customer_id,
        draft.order_id,
        draft.kind,
        draft.text,
        datetime.now(UTC),
    )
