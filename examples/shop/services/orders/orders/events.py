"""What orders tells everybody. Each event carries what its consumers need, because none of them may ask back."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from msgspec import Struct

from atoll import Event

__all__ = ["OrderCancelled", "OrderConfirmed", "OrderPlaced", "OrderedLine"]


class OrderedLine(Struct, frozen=True):
    sku: str
    quantity: int


class OrderPlaced(Event, name="order_placed", key="order_id"):
    """A customer wants this. Nothing is promised yet."""

    order_id: UUID
    customer_id: str
    lines: list[OrderedLine]
    total: Decimal
    currency: str
    payment_method: str


class OrderConfirmed(Event, name="order_confirmed", key="order_id"):
    """Reserved and paid. Final."""

    order_id: UUID
    customer_id: str
    total: Decimal
    currency: str


class OrderCancelled(Event, name="order_cancelled", key="order_id"):
    """It won't happen. Final. `reason`: out_of_stock, payment_declined or cancelled_by_customer."""

    order_id: UUID
    customer_id: str
    reason: str
