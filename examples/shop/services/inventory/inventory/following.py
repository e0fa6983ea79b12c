"""What events say: an order holds stock, then takes it or gives it back; a new product gets its first stock.

Streams of different services have no order between them: a decline may come before or after the cancellation that follows
from it. Whichever comes first releases; the other one finds nothing held. The whole table: docs/explanation/order-saga.md.
"""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from msgspec import Struct
from sqlalchemy.dialects.postgresql import insert

from atoll import Router
from atoll.sqlalchemy import Session
from inventory.events import StockRejected, StockReleased, StockReserved
from inventory.models import Stock
from inventory.reservations import hold, release, take
from inventory.settings import InventorySettings

__all__ = ["router"]

router = Router()


class Line(Struct, frozen=True):
    sku: str
    quantity: int


class OrderPlaced(Struct, frozen=True):
    order_id: UUID
    customer_id: str
    lines: list[Line]
    total: Decimal
    currency: str
    payment_method: str


class AboutOrder(Struct, frozen=True):
    order_id: UUID


class ProductAdded(Struct, frozen=True):
    sku: str


@router.on("orders.order_placed")
async def reserve(event: OrderPlaced, session: Session) -> None:
    missing = await hold(session, event.order_id, {line.sku: line.quantity for line in event.lines})
    if missing is None:
        return
    if missing:
        await session.publish(StockRejected(order_id=event.order_id, missing=missing))
        return
    await session.publish(
        StockReserved(
            order_id=event.order_id,
            customer_id=event.customer_id,
            total=event.total,
            currency=event.currency,
            payment_method=event.payment_method,
        )
    )


@router.on("orders.order_cancelled")
async def release_cancelled(event: AboutOrder, session: Session) -> None:
    await _release(session, event.order_id)


# Alone: its short transaction holds the locks of one order only while those of the orders' stream hold many.
@router.on("payments.payment_declined", alone=True)
async def release_unpaid(event: AboutOrder, session: Session) -> None:
    await _release(session, event.order_id)


@router.on("orders.order_confirmed")
async def take_confirmed(event: AboutOrder, session: Session) -> None:
    await take(session, event.order_id)


@router.on("catalog.product_added")
async def stock_product(event: ProductAdded, session: Session, settings: InventorySettings) -> None:
    """A product that is added again, or was counted before we heard of it, keeps the stock it has."""
    await session.execute(insert(Stock).values(sku=event.sku, on_hand=settings.initial_stock).on_conflict_do_nothing())


async def _release(session: Session, order_id: UUID) -> None:
    if await release(session, order_id):
        await session.publish(StockReleased(order_id=order_id))
