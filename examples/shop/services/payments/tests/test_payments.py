"""What payments does: with a real database, events in memory, and a card provider behind HTTP that counts what it did."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from payments.events import PaymentAuthorized, PaymentDeclined, PaymentRefunded
from payments.provider import CardProvider
from payments.service import service

from atoll.testing import UnderTest, under_test


class Cards:
    """The provider's side of the wire: answers once per key, and remembers. `during` runs while a charge is under way."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, str]] = {}
        self.asked: Counter[str] = Counter()
        self.down = False
        self.during: Callable[[], Any] | None = None

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused", request=request)
        key, body = request.headers["idempotency-key"], json.loads(request.content)
        self.asked[request.url.path] += 1
        declined = body.get("method") == "card-declined"
        self.made.setdefault(
            key, {"id": f"id-of-{key}", "status": "declined" if declined else "approved", "path": request.url.path}
        )
        if self.during is not None:
            during, self.during = self.during, None
            await during()
        return httpx.Response(201, json=self.made[key])

    def count(self, path: str) -> int:
        return sum(entry["path"] == path and entry["status"] == "approved" for entry in self.made.values())


@pytest.fixture
def cards() -> Cards:
    return Cards()


@pytest.fixture
async def payments(cards: Cards) -> AsyncIterator[UnderTest]:
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(cards.answer), base_url="http://cards") as http,
        under_test(service, settings={"card_provider_url": "http://cards"}) as payments,
    ):
        with payments.override(CardProvider, CardProvider(http)):
            yield payments


def reserved(method: str = "card-ok") -> dict[str, Any]:
    return {
        "order_id": str(uuid4()),
        "customer_id": "ada",
        "total": "25.00",
        "currency": "EUR",
        "payment_method": method,
    }


async def status(payments: UnderTest, event: dict[str, Any]) -> str:
    answer = await payments.as_user("ada", scopes=["payments:read"]).get(f"/payments/{event['order_id']}")
    return str(answer.json()["status"]) if answer.status_code == 200 else str(answer.status_code)


async def test_a_card_is_charged_when_the_stock_is_held(payments: UnderTest, cards: Cards) -> None:
    event = reserved()
    await payments.deliver("inventory.stock_reserved", event)
    [told] = payments.published
    assert isinstance(told, PaymentAuthorized)
    assert (str(told.order_id), told.customer_id, str(told.amount)) == (event["order_id"], "ada", "25.00")
    assert (await status(payments, event), cards.count("/charges")) == ("authorized", 1)


async def test_a_declined_card_is_told_and_not_charged(payments: UnderTest, cards: Cards) -> None:
    event = reserved("card-declined")
    await payments.deliver("inventory.stock_reserved", event)
    [told] = payments.published
    assert isinstance(told, PaymentDeclined)
    assert (await status(payments, event), cards.count("/charges")) == ("declined", 0)


async def test_an_order_is_charged_once_even_if_two_events_ask_for_it(payments: UnderTest, cards: Cards) -> None:
    event = reserved()
    for _ in range(2):
        await payments.deliver("inventory.stock_reserved", event)
    assert (len(payments.published), cards.count("/charges")) == (1, 1)


async def test_an_order_that_was_cancelled_first_is_never_charged(payments: UnderTest, cards: Cards) -> None:
    event = reserved()
    await payments.deliver("orders.order_cancelled", event)
    await payments.deliver("inventory.stock_reserved", event)
    assert payments.published == []
    assert (await status(payments, event), cards.asked) == ("404", Counter())


async def test_an_order_that_is_cancelled_after_its_charge_gets_its_money_back_once(payments: UnderTest, cards: Cards) -> None:
    event = reserved()
    await payments.deliver("inventory.stock_reserved", event)
    for _ in range(2):
        await payments.deliver("orders.order_cancelled", event)
    assert [type(told) for told in payments.published] == [PaymentAuthorized, PaymentRefunded]
    assert (cards.count("/charges"), cards.count("/refunds")) == (1, 1)
    assert await status(payments, event) == "refunded"


async def test_an_order_that_is_cancelled_during_its_charge_gets_its_money_back(payments: UnderTest, cards: Cards) -> None:
    event = reserved()
    cards.during = lambda: payments.deliver("orders.order_cancelled", event)
    await payments.deliver("inventory.stock_reserved", event)
    await payments.settle()
    assert [type(told) for told in payments.published] == [PaymentRefunded]
    assert (cards.count("/charges"), cards.count("/refunds")) == (1, 1)
    assert await status(payments, event) == "refunded"


async def test_while_the_provider_is_down_the_payment_waits_and_is_not_given_up(payments: UnderTest, cards: Cards) -> None:
    event = reserved()
    cards.down = True
    await payments.deliver("inventory.stock_reserved", event)
    assert (await status(payments, event), payments.published) == ("charging", [])
    cards.down = False
    await payments.settle()
    assert (await status(payments, event), cards.count("/charges")) == ("authorized", 1)


async def test_payments_of_others_do_not_exist(payments: UnderTest) -> None:
    event = reserved()
    await payments.deliver("inventory.stock_reserved", event)
    path = f"/payments/{event['order_id']}"
    assert (await payments.as_user("eve", scopes=["payments:read"]).get(path)).status_code == 404
    assert (await payments.as_user("ada", scopes=["orders:read"]).get(path)).status_code == 403
