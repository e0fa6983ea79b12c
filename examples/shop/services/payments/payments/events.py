"""What payments tells."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from atoll import Event

__all__ = ["PaymentAuthorized", "PaymentDeclined", "PaymentRefunded"]


class PaymentAuthorized(Event, name="payment_authorized", key="order_id"):
    """The money is ours."""

    order_id: UUID
    customer_id: str
    amount: Decimal
    currency: str


class PaymentDeclined(Event, name="payment_declined", key="order_id"):
    """The card provider said no; nothing was charged."""

    order_id: UUID
    customer_id: str
    reason: str


class PaymentRefunded(Event, name="payment_refunded", key="order_id"):
    """The order was cancelled after its card had been charged; all of it was given back."""

    order_id: UUID
    customer_id: str
    amount: Decimal
    currency: str
