"""The cart, and turning it into an order."""

from __future__ import annotations

import asyncio
import re
import secrets
from decimal import Decimal
from typing import Annotated

from msgspec import Struct
from starlette.responses import Response

from atoll import Form, Router
from storefront.shop import Product, Refusal, Unavailable
from storefront.visit import Visit, friendly

__all__ = ["router"]

router = Router()
_ORDER_KEY = re.compile(r"[A-Za-z0-9_-]{22}")
_STALE = "This page had been open for too long, so nothing was changed. Please try again."
_NOT_NOW = "We can’t take orders right now. Nothing was ordered, and your cart is kept: please try again in a moment."
_UNSURE = "We did not hear back in time. Please press the button again: it is one order, however often you do."
_CHANGED = (
    "This order was placed before, and your cart has changed since. Please look at your orders, or order this as a new one."
)


class Change(Struct, frozen=True):
    """`add` puts more of it into the cart, `set` says how many there shall be."""

    sku: str = ""
    quantity: str = "1"
    action: str = "add"
    form_key: str = ""


class Payment(Struct, frozen=True):
    """`order_key` stands for the order that this page places: sent twice, it is placed once."""

    payment_method: str = "card-ok"
    form_key: str = ""
    order_key: str = ""


class Entry(Struct, frozen=True):
    """A line of the cart. `product` is None while the catalog can't be reached, or when it is not sold any more."""

    sku: str
    quantity: int
    product: Product | None

    @property
    def total(self) -> Decimal:
        return self.product.price * self.quantity if self.product else Decimal(0)


@router.get("/cart", public=True)
@friendly
async def cart_page(visit: Visit) -> Response:
    return await _cart(visit)


@router.post("/cart", public=True, status=200)
@friendly
async def change_cart(visit: Visit, form: Annotated[Change, Form()]) -> Response:
    if not visit.came_from_us(form.form_key):
        return await _cart(visit, _STALE, 403)
    quantity = int(form.quantity) if form.quantity.isascii() and form.quantity.isdecimal() else 0
    if form.action == "add":
        product = await visit.shop.product(form.sku)
        visit.put(product.sku, visit.cart.get(product.sku, 0) + min(quantity, 100))
    else:
        visit.put(form.sku, min(quantity, 100))
    return visit.redirect("/cart")


@router.get("/checkout", public=True)
@friendly
async def checkout_page(visit: Visit) -> Response:
    await visit.token()
    return await _checkout(visit)


@router.post("/checkout", public=True, status=200)
@friendly
async def checkout(visit: Visit, form: Annotated[Payment, Form()]) -> Response:
    if not visit.came_from_us(form.form_key):
        return await _checkout(visit, _STALE, 403)
    if not visit.cart:
        return visit.redirect("/cart")
    token = await visit.token()
    key = form.order_key if _ORDER_KEY.fullmatch(form.order_key) else _new_key()
    try:
        order = await visit.shop.place_order(token, key, visit.cart, form.payment_method)
    except Refusal as refusal:
        detail = _CHANGED if refusal.code == "idempotency_key_reused" else refusal.detail
        return await _checkout(visit, detail, refusal.status)
    except Unavailable as trouble:
        return await _checkout(visit, _UNSURE if trouble.sent else _NOT_NOW, 503, key)
    visit.cart = {}
    return visit.redirect(f"/my/orders/{order.id}")


async def _cart(visit: Visit, fault: str = "", status: int = 200) -> Response:
    entries = await _entries(visit)
    return visit.page("cart.html", status, entries=entries, total=_total(entries), currency=_currency(entries), fault=fault)


async def _checkout(visit: Visit, fault: str = "", status: int = 200, key: str = "") -> Response:
    """`key` is the one of an order that may have been placed: trying again must not be a second one."""
    entries = await _entries(visit)
    if not entries:
        return visit.redirect("/cart")
    total, currency = _total(entries), _currency(entries)
    order_key = key or _new_key()
    return visit.page(
        "checkout.html", status, entries=entries, total=total, currency=currency, fault=fault, order_key=order_key
    )


def _new_key() -> str:
    return secrets.token_urlsafe(16)


async def _entries(visit: Visit) -> list[Entry]:
    async def entry(sku: str, quantity: int) -> Entry:
        try:
            return Entry(sku, quantity, await visit.shop.product(sku))
        except (Unavailable, Refusal):
            return Entry(sku, quantity, None)

    return list(await asyncio.gather(*(entry(sku, quantity) for sku, quantity in visit.cart.items())))


def _total(entries: list[Entry]) -> Decimal | None:
    """None when a price is not known right now."""
    if any(entry.product is None for entry in entries):
        return None
    return sum((entry.total for entry in entries), Decimal(0))


def _currency(entries: list[Entry]) -> str:
    return next((entry.product.currency for entry in entries if entry.product), "EUR")
