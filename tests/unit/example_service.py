"""A service that declares one of everything, for the golden contract documents."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import msgspec
from starlette.responses import StreamingResponse

from atoll import (
    Conflict,
    Event,
    Form,
    Header,
    NotFound,
    Page,
    Principal,
    Query,
    Refused,
    Router,
    Secret,
    Service,
    Settings,
    UploadFile,
)
from atoll.sqlite import Transaction


class Line(msgspec.Struct, forbid_unknown_fields=True):
    sku: Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=100)]


class NewOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What a customer wants."""

    lines: Annotated[list[Line], msgspec.Meta(min_length=1, max_length=50)]
    payment_method: str = "card-ok"


class Order(msgspec.Struct):
    id: UUID
    status: str
    total: Decimal
    placed_at: datetime
    lines: list[Line] = []


class Filter(msgspec.Struct):
    status: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    after: str = ""


class Signature(msgspec.Struct):
    name: str


class OrderPlaced(Event, name="order_placed", key="order_id"):
    """Somebody ordered; nothing is promised yet."""

    order_id: UUID
    lines: list[Line]
    total: Decimal


class OrderMoved(Event, name="order_moved", key="order_id", partitions=4):
    order_id: UUID


class OwnEvent(Event, name="own", key="name", subject="own.name"):
    name: str


class StockRejected(msgspec.Struct):
    order_id: UUID
    reason: str


class PaymentDeclined(msgspec.Struct):
    order_id: UUID


class OrderSettings(Settings):
    vat_rate: Decimal = Decimal("0.10")
    provider_url: str
    provider_key: Secret
    hosts: tuple[str, ...] = ()
    retries: int = 3


class UnknownSku(Refused, status=422, code="unknown_sku"):
    """There is no such product."""


service = Service("orders", database="sqlite", publishes=[OrderPlaced, OrderMoved, OwnEvent], title="Orders", version="1.2.0")
router = Router("/orders/{id}")
service.include(router)


@service.get("/orders", scope="orders:read")
async def own_orders(filter: Annotated[Filter, Query()], me: Principal, tx: Transaction) -> Page[Order]:
    """A customer's own orders, newest first."""
    return Page([])


@service.post("/orders", scope="orders:write", raises=[UnknownSku, Conflict])
async def place_order(order: NewOrder, me: Principal, tx: Transaction, settings: OrderSettings) -> Order:
    """Places an order.

    It is settled later; `GET /orders/{id}` tells how far it is.
    """
    raise Conflict


@router.get("/", raises=[NotFound], timeout_s=2.5)
async def own_order(id: UUID, if_none_match: Annotated[str | None, Header()], tx: Transaction) -> Order:
    raise NotFound


@router.post("/files", tags=["files"])
async def attach(id: UUID, file: UploadFile, title: Annotated[str, Form()]) -> None: ...


@router.get("/stream", public=True)
async def follow(id: UUID) -> StreamingResponse:
    raise NotFound


@router.post("/signature", public=True, status=202)
async def sign(id: UUID, signature: Annotated[Signature, Form()]) -> Signature:
    return signature


@service.get("/orders/invoices/{file:path}", public=True)
async def invoice(file: str) -> str:
    """An invoice's file."""
    return file


@service.on("inventory.stock_rejected")
async def cancel(event: StockRejected, tx: Transaction) -> None:
    """An order that can't be served is cancelled."""


@service.on("payments.payment_declined", alone=True)
async def release(event: PaymentDeclined, tx: Transaction) -> None: ...
