"""Event handlers as the consumer calls them."""

from __future__ import annotations

import threading
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest

from atoll import Delivery, Invalid, Service
from atoll.delivery.handling import Handler
from atoll.service import context
from atoll.service.handlers import build_handlers
from atoll.service.injection import Injector
from atoll.sqlite import Transaction

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Line(msgspec.Struct):
    sku: str
    quantity: int


class StockRejected(msgspec.Struct):
    order_id: UUID
    lines: list[Line] = []


def handlers(service: Service) -> dict[str, Handler]:
    return dict(build_handlers(service, Injector(service)))


def delivery(type: str = "inventory.stock_rejected") -> Delivery:
    return Delivery(id="e1", type=type, source="inventory", key="k", time="", attempt=2, traceparent=TRACE)


async def test_a_handler_sees_its_own_view_of_the_event_the_delivery_and_the_transaction() -> None:
    service = Service("orders")
    seen: list[object] = []

    @service.on("inventory.stock_rejected", alone=True)
    async def cancel(event: StockRejected, delivery: Delivery, tx: Transaction) -> None:
        seen.extend([event, delivery.attempt, tx, context.current().event_id, context.current().traceparent[3:35]])

    found = handlers(service)
    body = b'{"order_id": "6f3f3cf0-5c8a-4a10-9c7e-6d3a3a3b1c11", "somebody_elses": 1}'
    await found["inventory.stock_rejected"].invoke(body, delivery(), "the transaction")

    expected = StockRejected(UUID("6f3f3cf0-5c8a-4a10-9c7e-6d3a3a3b1c11"))
    assert seen == [expected, 2, "the transaction", "e1", TRACE[3:35]]
    assert found["inventory.stock_rejected"].alone
    assert context.current() is context.NOWHERE


async def test_an_event_that_does_not_fit_fails_with_every_fault_named() -> None:
    service = Service("orders")

    @service.on("inventory.stock_rejected")
    async def cancel(event: StockRejected) -> None: ...

    with pytest.raises(Invalid) as caught:
        await handlers(service)["inventory.stock_rejected"].invoke(b'{"lines": [{"sku": 1}]}', delivery(), None)

    assert [one["field"] for one in caught.value.faults] == ["order_id", "lines[0].sku", "lines[0].quantity"]


async def test_what_a_handler_raises_reaches_the_consumer_and_plain_functions_run_in_a_thread() -> None:
    service = Service("orders")
    threads: list[int] = []

    @service.on("catalog.price_changed")
    def reprice(event: dict[str, Decimal]) -> None:
        threads.append(threading.get_ident())
        raise LookupError("no such sku")

    with pytest.raises(LookupError):
        await handlers(service)["catalog.price_changed"].invoke(b"{}", delivery("catalog.price_changed"), None)

    assert threads != [threading.get_ident()]
