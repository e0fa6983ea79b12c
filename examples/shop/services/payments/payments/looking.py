"""What customers ask: what became of the payment of one of their orders."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from msgspec import Struct

from atoll import NotFound, Principal, Router
from atoll.sqlite import Transaction

__all__ = ["router"]

router = Router()


class PaymentView(Struct, frozen=True):
    """`charging` is being asked at the card provider, `cancelling` is about to be given back."""

    order_id: UUID
    status: Literal["charging", "authorized", "declined", "cancelling", "refunded"]
    amount: Decimal
    currency: str
    method: str
    created_at: datetime
    updated_at: datetime


@router.get("/payments/{order_id}", scope="payments:read")
async def payment_of_order(order_id: UUID, me: Principal, tx: Transaction) -> PaymentView:
    """Only the caller's own; an order that was cancelled before anything was charged has none."""
    payment = await tx.one_or_none(
        PaymentView,
        """SELECT order_id, status, amount, currency, method, created_at, updated_at FROM payments
           WHERE order_id = $1 AND customer_id = $2 AND status <> 'cancelled'""",
        order_id,
        me.id,
    )
    if payment is None:
        raise NotFound(f"you have no payment for an order {order_id}")
    return payment
