"""What staff does with the range: take a product in, change it, retire it.

Each handler begins with its write, which takes the product's document: of two that change one product, the second sees what
the first has done.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from msgspec import Meta, Struct

from atoll import Conflict, Invalid, NotFound, Router
from atoll.mongodb import Transaction
from catalog.events import PriceChanged, ProductAdded, ProductRetired
from catalog.product import PRODUCTS, Product, document, folded

__all__ = ["router", "take_in"]

router = Router()
_CENT = Decimal("0.01")
_HIGHEST_PRICE = Decimal(1_000_000)

Sku = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]*$", max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=120)]
Currency = Annotated[str, Meta(pattern="^[A-Z]{3}$")]
Description = Annotated[str, Meta(max_length=2000)]


class NewProduct(Struct, frozen=True, forbid_unknown_fields=True):
    sku: Sku
    name: Name
    price: Decimal
    currency: Currency = "EUR"
    description: Description = ""


class ProductChange(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole product as it shall be. Its sku and currency stay."""

    name: Name
    price: Decimal
    description: Description = ""


@router.post("/catalog/products", scope="catalog:write", raises=[Conflict])
async def add_product(new: NewProduct, tx: Transaction) -> Product:
    """Takes a product in. 409 when there is one with this sku, or was: a sku is never used again."""
    product = Product(
        sku=new.sku,
        name=new.name,
        price=_price(new.price),
        currency=new.currency,
        description=new.description,
        added_at=_now(),
    )
    try:
        await take_in(tx, product)
    except Conflict:
        raise Conflict(f"{new.sku} is in the catalog, or has been") from None
    return product


@router.put("/catalog/products/{sku}", scope="catalog:write", raises=[Conflict])
async def change_product(sku: str, change: ProductChange, tx: Transaction) -> Product:
    """Changes a product on sale. 409 when it is retired."""
    price = _price(change.price)
    changed = {
        "name": change.name,
        "price": price,
        "description": change.description,
        "sorted_as": folded(change.name),
        "words": folded(f"{change.name} {change.description} {sku}"),
    }
    before = await tx.updated(Product, PRODUCTS, {"_id": sku, "retired": False}, {"$set": changed}, before=True)
    if before is None:
        raise await _why_not(tx, sku)
    if before.price != price:
        await tx.publish(PriceChanged(sku=sku, price=price, currency=before.currency))
    return await tx.one(Product, PRODUCTS, {"_id": sku})


@router.delete("/catalog/products/{sku}", scope="catalog:write", raises=[Conflict])
async def retire_product(sku: str, tx: Transaction) -> None:
    """Takes a product off sale, for good. 409 when it was already."""
    if not await tx.update(PRODUCTS, {"_id": sku, "retired": False}, {"$set": {"retired": True}}):
        raise await _why_not(tx, sku)
    await tx.publish(ProductRetired(sku=sku))


async def take_in(tx: Transaction, product: Product) -> None:
    """Stores it and tells everybody. Raises Conflict when its sku is taken."""
    await tx.insert(PRODUCTS, document(product))
    await tx.publish(
        ProductAdded(sku=product.sku, name=product.name, price=product.price, currency=product.currency),
    )


async def _why_not(tx: Transaction, sku: str) -> Exception:
    if await tx.one_or_none(Product, PRODUCTS, {"_id": sku}) is None:
        return NotFound(f"{sku} is not sold here")
    return Conflict(f"{sku} is retired")


def _price(price: Decimal) -> Decimal:
    """With two decimals. Raises Invalid when it is not a price."""
    if not price.is_finite() or not 0 < price <= _HIGHEST_PRICE or price != price.quantize(_CENT):
        raise Invalid(faults=[{"field": "price", "detail": f"is more than 0, at most {_HIGHEST_PRICE:,}, in whole cents"}])
    return price.quantize(_CENT)


def _now() -> datetime:
    """As MongoDB keeps it: in milliseconds."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
