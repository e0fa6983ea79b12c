"""A product as everybody sees it, and as the collection `products` holds it under its sku."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from decimal import Decimal
from typing import Any

from msgspec import Struct

__all__ = ["PRODUCTS", "Product", "document", "folded"]

PRODUCTS = "products"


class Product(Struct, frozen=True):
    """`price` includes tax."""

    sku: str
    name: str
    price: Decimal
    currency: str
    description: str
    added_at: datetime


def document(product: Product) -> dict[str, Any]:
    """What is stored: the product, its name as it sorts, its words as they are searched, and whether it is still sold."""
    return {
        "_id": product.sku,
        "sku": product.sku,
        "name": product.name,
        "price": product.price,
        "currency": product.currency,
        "description": product.description,
        "added_at": product.added_at,
        "sorted_as": folded(product.name),
        "words": folded(f"{product.name} {product.description} {product.sku}"),
        "retired": False,
    }


def folded(text: str) -> str:
    """Without case and accents, as people type when they search."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in parts if not unicodedata.combining(letter))
