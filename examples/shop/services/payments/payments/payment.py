"""A payment's row, and the guarded changes of it.

    (nothing) ─ stock_reserved ──→ charging ─ approved ──→ authorized ─ order_cancelled ─→ refunded
        │                             │ └──── declined ──→ declined
        │                             └─ order_cancelled ─→ cancelling ─ charge settled, given back ─→ refunded
        └────── order_cancelled ──→ cancelled   (the tombstone: a stock_reserved that comes later charges nothing)

Each change is one statement that names the state it expects: of two that race, one finds it changed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from msgspec import Struct

from atoll.sqlite import Transaction

__all__ = ["NewPayment", "Payment", "Status", "begin", "change", "mark_cancelled"]

Status = Literal["charging", "authorized", "declined", "cancelling", "refunded", "cancelled"]


class Payment(Struct, frozen=True):
    """`charge_key` is the Idempotency-Key at the provider, fixed before the first call to it."""

    order_id: UUID
    customer_id: str
    status: Status
    amount: Decimal
    currency: str
    method: str
    charge_key: str
    charge_id: str | None
    created_at: datetime
    updated_at: datetime


class NewPayment(Struct, frozen=True):
    order_id: UUID
    customer_id: str
    amount: Decimal
    currency: str
    method: str
    charge_key: str


async def begin(tx: Transaction, new: NewPayment) -> Payment:
    """The payment of this order: made now, or whatever stands there."""
    now = datetime.now(UTC)
    await tx.execute(
        """INSERT INTO payments
           (order_id, customer_id, status, amount, currency, method, charge_key, created_at, updated_at)
           VALUES ($1, $2, 'charging', $3, $4, $5, $6, $7, $7) ON CONFLICT DO NOTHING""",
        new.order_id,
        new.customer_id,
        new.amount,
        new.currency,
        new.method,
        new.charge_key,
        now,
    )
    return await tx.one(Payment, "SELECT * FROM payments WHERE order_id = $1", new.order_id)


async def mark_cancelled(tx: Transaction, order_id: UUID, customer_id: str) -> Payment:
    """Leaves the tombstone, or tells a charge in progress that it is not wanted any more. Gives what stands there now."""
    await tx.execute(
        """INSERT INTO payments
           (order_id, customer_id, status, amount, currency, method, charge_key, created_at, updated_at)
           VALUES ($1, $2, 'cancelled', '0', '', '', '', $3, $3)
           ON CONFLICT (order_id) DO UPDATE SET status = 'cancelling', updated_at = excluded.updated_at
           WHERE status = 'charging'""",
        order_id,
        customer_id,
        datetime.now(UTC),
    )
    return await tx.one(Payment, "SELECT * FROM payments WHERE order_id = $1", order_id)


async def change(tx: Transaction, payment: Payment, status: Status, charge_id: str | None) -> bool:
    """Moves it from the status that was read to another; False when it has another one by now."""
    changed = await tx.execute(
        """UPDATE payments SET status = $3, charge_id = $4, updated_at = $5
           WHERE order_id = $1 AND status = $2""",
        payment.order_id,
        payment.status,
        status,
        charge_id,
        datetime.now(UTC),
    )
    return changed == 1
