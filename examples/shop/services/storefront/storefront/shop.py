"""The shop as its gateway shows it: everything the pages know, asked over HTTP like any client would."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    import httpx

__all__ = [
    "Order",
    "Page",
    "Product",
    "Refusal",
    "Shop",
    "SignedOut",
    "Stock",
    "Tokens",
    "Unavailable",
]

T = TypeVar("T")
_WHILE_IN_USE_S = (0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 1.0)


class Unavailable(Exception):
    """The part of the shop that was asked can't answer now. `sent` tells that a change may have been made all the same."""

    def __init__(self, detail: str, *, sent: bool = False) -> None:
        super().__init__(detail)
        self.sent = sent


class SignedOut(Exception):
    """The visitor's token is gone, expired or refused."""


class Refusal(Exception):
    """The answer was a 4xx: what the visitor asked can't be done. `code` is the problem's."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


class Page(Struct, Generic[T], frozen=True):
    items: list[T]
    next: str | None = None


class Product(Struct, frozen=True):
    sku: str
    name: str
    price: Decimal
    currency: str
    description: str = ""


class Stock(Struct, frozen=True):
    available: int


class Line(Struct, frozen=True):
    sku: str
    name: str
    quantity: int
    price: Decimal
    total: Decimal


class Order(Struct, frozen=True):
    id: str
    status: str
    lines: list[Line]
    total: Decimal
    vat: Decimal
    currency: str
    payment_method: str
    created_at: datetime
    reason: str | None = None
    stock_reserved_at: datetime | None = None
    settled_at: datetime | None = None


class Tokens(Struct, frozen=True):
    access_token: str
    expires_in: float
    refresh_token: str = ""


class _Problem(Struct, frozen=True):
    """problem+json, and OAuth's own error shape (RFC 6749 §5.2)."""

    code: str = ""
    detail: str = ""
    error: str = ""
    error_description: str = ""
    errors: list[dict[str, str]] = []


class Shop:
    """Every method raises Unavailable, SignedOut or Refusal, and nothing else of the network."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def products(self, search: str, after: str) -> Page[Product]:
        parameters = {"limit": "12", "q": search, "after": after}
        return await self._get("/catalog/products", Page[Product], params={k: v for k, v in parameters.items() if v})

    async def product(self, sku: str) -> Product:
        return await self._get(f"/catalog/products/{_segment(sku)}", Product)

    async def stock(self, sku: str) -> int | None:
        """None when nobody can say."""
        try:
            return (await self._get(f"/inventory/{_segment(sku)}", Stock)).available
        except (Unavailable, Refusal, SignedOut):
            return None

    async def sign_in(self, username: str, password: str) -> Tokens:
        return await self._token({"grant_type": "password", "username": username, "password": password})

    async def refresh(self, refresh_token: str) -> Tokens:
        return await self._token({"grant_type": "refresh_token", "refresh_token": refresh_token})

    async def register(self, username: str, password: str) -> None:
        await self._ask("POST", "/auth/users", json={"username": username, "password": password})

    async def place_order(self, token: str, key: str, cart: Mapping[str, int], payment_method: str) -> Order:
        """Places one order for `key`, however often it is called: what was placed before is what comes back."""
        lines = [{"sku": sku, "quantity": quantity} for sku, quantity in cart.items()]
        body = {"lines": lines, "payment_method": payment_method}
        headers = {**_bearer(token), "idempotency-key": key}
        for pause_s in _WHILE_IN_USE_S:
            try:
                return _read(await self._ask("POST", "/orders", json=body, headers=headers), Order)
            except Refusal as refusal:  # a double click: its first half is being answered
                if refusal.code != "idempotency_key_in_use":
                    raise
                await asyncio.sleep(pause_s)
        raise Unavailable("/orders: the same order is still being placed", sent=True)

    async def cancel_order(self, token: str, order_id: str) -> Order:
        path = f"/orders/{_segment(order_id)}/cancellation"
        return _read(await self._ask("POST", path, headers=_bearer(token)), Order)

    async def order(self, token: str, order_id: str) -> Order:
        return await self._get(f"/orders/{_segment(order_id)}", Order, headers=_bearer(token))

    async def orders(self, token: str, after: str) -> Page[Order]:
        parameters = {"limit": "10", "after": after} if after else {"limit": "10"}
        return await self._get("/orders", Page[Order], headers=_bearer(token), params=parameters)

    async def _token(self, form: Mapping[str, str]) -> Tokens:
        return _read(await self._ask("POST", "/auth/token", data=dict(form)), Tokens)

    async def _get(self, path: str, kind: type[T], **options: Any) -> T:
        return _read(await self._ask("GET", path, **options), kind)

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        import httpx

        try:
            answer = await self._http.request(method, path, **options)
        except httpx.ConnectError as error:
            raise Unavailable(f"{path}: the gateway can't be reached") from error
        except httpx.HTTPError as error:
            raise Unavailable(f"{path}: {type(error).__name__}", sent=method != "GET") from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Unavailable(f"{path}: {answer.status_code}", sent=method != "GET" and answer.status_code in (500, 504))
        if answer.status_code >= 400:
            raise _refusal(answer, signed="authorization" in answer.request.headers)
        return answer


def _refusal(answer: httpx.Response, *, signed: bool) -> Exception:
    if answer.status_code == 401 and signed:
        return SignedOut()
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    faults = "; ".join(f"{fault.get('field', '')} {fault.get('detail', '')}".strip() for fault in problem.errors)
    detail = faults or problem.detail or problem.error_description or "That is not possible."
    return Refusal(answer.status_code, problem.code or problem.error, detail)


def _read(answer: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except msgspec.DecodeError as error:
        raise Unavailable(f"{answer.request.url.path}: an answer that this storefront can't read: {error}") from error


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _segment(text: str) -> str:
    """One path segment, whatever a visitor typed: a SKU of `../orders` stays a SKU."""
    from urllib.parse import quote

    return quote(text, safe="").replace(".", "%2E") if set(text) <= {"."} else quote(text, safe="")
