"""What everybody may ask: the products on sale, a page at a time, and one of them.

A list may be five seconds old; one product never is, but who has it as it stands is not sent it again.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from atoll import Invalid, NotFound, Page, Router
from atoll.mongodb import Transaction
from catalog.product import PRODUCTS, Product, folded

__all__ = ["router"]

router = Router()


@router.get("/catalog/products", public=True, cache="5s")
async def products(
    tx: Transaction,
    q: Annotated[str, Meta(max_length=100)] = "",
    limit: Annotated[int, Meta(ge=1, le=100)] = 20,
    after: Annotated[str, Meta(max_length=500)] = "",
) -> Page[Product]:
    """Products on sale, by name. `q` finds those with each of its words, or parts of words, in name, description or sku.

    `after` is the `next` of the page before.
    """
    wanted = [{"retired": False}, *_beyond(after), *(_has(word) for word in folded(q).split())]
    found = await tx.all(Product, PRODUCTS, {"$and": wanted}, sort=("sorted_as", "_id"), limit=limit + 1)
    shown = found[:limit]
    return Page(items=shown, next=_cursor(shown[-1]) if len(found) > limit else None)


@router.get("/catalog/products/{sku}", public=True, cache="0s")
async def product(sku: str, tx: Transaction) -> Product:
    """One product that is on sale."""
    found = await tx.one_or_none(Product, PRODUCTS, {"_id": sku, "retired": False})
    if found is None:
        raise NotFound(f"{sku} is not sold here")
    return found


def _has(word: str) -> Mapping[str, Any]:
    return {"words": {"$regex": re.escape(word)}}


def _cursor(last: Product) -> str:
    return base64.urlsafe_b64encode(f"{folded(last.name)}\n{last.sku}".encode()).decode().rstrip("=")


def _beyond(cursor: str) -> list[Mapping[str, Any]]:
    """The part of the filter that begins after `cursor`. Raises Invalid."""
    if not cursor:
        return []
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        name, sku = text.split("\n")
    except (binascii.Error, ValueError):
        raise Invalid(faults=[{"field": "after", "detail": "is not a `next` that this list gave"}]) from None
    return [{"$or": [{"sorted_as": {"$gt": name}}, {"sorted_as": name, "_id": {"$gt": sku}}]}]
