"""orders' own copy of the catalog's prices, kept by events: an order can be placed while catalog is down."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from msgspec import Struct

from atoll import Refused, Router
from atoll.postgresql import Transaction

__all__ = ["Price", "UnknownSku", "prices_of", "router"]

router = Router()


class UnknownSku(Refused, status=422, code="unknown_sku"):
    """No such product is sold."""


class ProductAdded(Struct, frozen=True):
    sku: str
    name: str
    price: Decimal
    currency: str


class PriceChanged(Struct, frozen=True):
    sku: str
    price: Decimal
    currency: str


class ProductRetired(Struct, frozen=True):
    sku: str


class Price(Struct, frozen=True):
    sku: str
    name: str
    price: Decimal
    currency: str


@router.on("catalog.product_added")
async def learn_product(event: ProductAdded, tx: Transaction) -> None:
    await tx.execute(
        """INSERT INTO prices (sku, name, price, currency) VALUES ($1, $2, $3, $4)
           ON CONFLICT (sku) DO UPDATE
           SET name = excluded.name, price = excluded.price, currency = excluded.currency, retired = false""",
        event.sku,
        event.name,
        event.price,
        event.currency,
    )


@router.on("catalog.price_changed")
async def learn_price(event: PriceChanged, tx: Transaction) -> None:
    await tx.execute("UPDATE prices SET price = $2, currency = $3 WHERE sku = $1", event.sku, event.price, event.currency)


@router.on("catalog.product_retired")
async def forget_product(event: ProductRetired, tx: Transaction) -> None:
    await tx.execute("UPDATE prices SET retired = true WHERE sku = $1", event.sku)


async def prices_of(tx: Transaction, skus: Sequence[str]) -> dict[str, Price]:
    """Today's price of each. Raises UnknownSku that names every one that is not sold."""
    rows = await tx.all(Price, "SELECT sku, name, price, currency FROM prices WHERE sku = ANY($1) AND NOT retired", list(skus))
    found = {row.sku: row for row in rows}
    if missing := sorted(set(skus) - found.keys()):
        raise UnknownSku(f"not sold here: {', '.join(missing)}")
    return found
