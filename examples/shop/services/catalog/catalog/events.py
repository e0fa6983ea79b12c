"""What catalog tells everybody. Others keep what they need of it, so that they work while catalog is down."""

from __future__ import annotations

from decimal import Decimal

from atoll import Event

__all__ = ["PriceChanged", "ProductAdded", "ProductRetired"]


class ProductAdded(Event, name="product_added", key="sku"):
    """It is sold from now on."""

    sku: str
    name: str
    price: Decimal
    currency: str


class PriceChanged(Event, name="price_changed", key="sku"):
    """It costs this from now on."""

    sku: str
    price: Decimal
    currency: str


class ProductRetired(Event, name="product_retired", key="sku"):
    """It is not sold any more. Final: a sku is never used again."""

    sku: str
