"""What inventory tells. `stock_reserved` carries all that a payment needs, because payments may not ask back."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from msgspec import Struct

from atoll import Event

__all__ = ["Shortage", "StockRejected", "StockReleased", "StockReserved"]


class Shortage(Struct, frozen=True):
    sku: str
    requested: int
    available: int


class StockReserved(Event, name="stock_reserved", key="order_id"):
    """Every line of the order is held back for it."""

    order_id: UUID
    customer_id: str
    total: Decimal
    currency: str
    payment_method: str


class StockRejected(Event, name="stock_rejected", key="order_id"):
    """There is too little of something; nothing is held."""

    order_id: UUID
    missing: list[Shortage]


class StockReleased(Event, name="stock_released", key="order_id"):
    """What was held is for sale again."""

    order_id: UUID
