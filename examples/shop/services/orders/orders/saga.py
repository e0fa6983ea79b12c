"""What events change. Streams of different services have no order between them, so every handler is a guarded change.

The whole table: docs/explanation/order-saga.md.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from atoll import Delivery, Router
from atoll.postgresql import Transaction
from orders.order import cancel, confirm

__all__ = ["router"]

router = Router()


class AboutOrder(Struct, frozen=True):
    """All that orders needs of these events: which order."""

    order_id: UUID


@router.on("inventory.stock_reserved")
async def note_reservation(event: AboutOrder, delivery: Delivery, tx: Transaction) -> None:
    """For the customer to see. It may come after the payment, even after the end: that changes nothing else."""
    await tx.execute(
        "UPDATE orders SET stock_reserved_at = $2 WHERE id = $1 AND stock_reserved_at IS NULL",
        event.order_id,
        datetime.fromisoformat(delivery.time),
    )


@router.on("inventory.stock_rejected")
async def cancel_without_stock(event: AboutOrder, tx: Transaction) -> None:
    await cancel(tx, event.order_id, "out_of_stock")


@router.on("payments.payment_authorized")
async def confirm_paid(event: AboutOrder, tx: Transaction) -> None:
    """An order that was cancelled meanwhile stays so: payments hears of the cancellation too, and gives the money back."""
    await confirm(tx, event.order_id)


@router.on("payments.payment_declined")
async def cancel_unpaid(event: AboutOrder, tx: Transaction) -> None:
    await cancel(tx, event.order_id, "payment_declined")
