"""What the storefront does with what the gateway answers. The whole journey, in a browser, is in tests/browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from storefront.account import _inside
from storefront.look import money, picture
from storefront.seal import Seal
from storefront.service import service
from storefront.settings import DEMO_SECRET, StorefrontSettings
from storefront.shop import Shop

from atoll.errors import SystemMistake
from atoll.testing import under_test

MUG = {"sku": "mug", "name": "Enamel <mug>", "price": "12.50", "currency": "EUR", "description": "Blue."}
ORDER = {
    "id": "0190a1de-0000-7000-8000-000000000001",
    "status": "pending",
    "lines": [{"sku": "mug", "name": "Enamel mug", "quantity": 1, "price": "12.50", "total": "12.50"}],
    "total": "12.50",
    "vat": "1.14",
    "currency": "EUR",
    "payment_method": "card-ok",
    "created_at": "2026-11-23T07:00:00Z",
}


class Wire:
    """What the gateway answers, by verb and path. Anything else is answered 503, as when nobody is there."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {
            ("GET", "/catalog/products"): (200, {"items": [MUG], "next": None}),
            ("GET", "/catalog/products/mug"): (200, MUG),
            ("POST", "/auth/token"): (200, {"access_token": "a.b.c", "expires_in": 300, "refresh_token": "r"}),
            ("POST", "/orders"): (201, ORDER),
            ("GET", f"/orders/{ORDER['id']}"): (200, ORDER),
        }
        self.asked: list[httpx.Request] = []
        self.busy = 0

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if self.busy and (request.method, request.url.path) == ("POST", "/orders"):
            self.busy -= 1
            return httpx.Response(409, json={"code": "idempotency_key_in_use"})
        status, body = self.answers.get((request.method, request.url.path), (503, {"code": "unavailable"}))
        return httpx.Response(status, json=body)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def browser(wire: Wire) -> AsyncIterator[httpx.AsyncClient]:
    """Keeps cookies and does not follow redirects."""
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(wire.answer), base_url="http://gateway") as http,
        under_test(service, settings={"session_secret": "for these tests"}) as storefront,
    ):
        with storefront.override(Shop, Shop(http)):
            yield storefront.client


async def send(browser: httpx.AsyncClient, page: str, target: str, **fields: str) -> httpx.Response:
    """Fills in the form on `page`, with the keys that stand in it."""
    keys = keys_in((await browser.get(page)).text)
    assert "form_key" in keys, "there is no form"
    return await browser.post(target, data={**keys, **fields})


def keys_in(page: str) -> dict[str, str]:
    return dict(re.findall(r'name="(form_key|order_key)" value="([^"]+)"', page))


async def signed_in_with_a_mug(browser: httpx.AsyncClient) -> None:
    answer = await send(browser, "/sign-in", "/sign-in", username="ada", password="pw", back="/cart")
    assert (answer.status_code, answer.headers["location"]) == (303, "/cart")
    answer = await send(browser, "/products/mug", "/cart", sku="mug", quantity="2", action="add")
    assert answer.status_code == 303


async def test_the_shelves_show_what_the_catalog_has_and_nothing_is_taken_for_markup(browser: httpx.AsyncClient) -> None:
    page = await browser.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Enamel &lt;mug&gt;" in page.text
    assert "€12.50" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_an_order_is_placed_and_watched(browser: httpx.AsyncClient, wire: Wire) -> None:
    await signed_in_with_a_mug(browser)
    answer = await send(browser, "/checkout", "/checkout", payment_method="card-ok")
    assert answer.headers["location"] == f"/my/orders/{ORDER['id']}"
    [placed] = [request for request in wire.asked if request.url.path == "/orders"]
    assert placed.headers["authorization"] == "Bearer a.b.c"
    assert placed.content == b'{"lines":[{"sku":"mug","quantity":2}],"payment_method":"card-ok"}'
    page = await browser.get(answer.headers["location"])
    assert 'http-equiv="refresh"' in page.text
    assert "nothing in it yet" in (await browser.get("/cart")).text


async def test_the_same_checkout_sent_twice_asks_for_the_same_order(browser: httpx.AsyncClient, wire: Wire) -> None:
    await signed_in_with_a_mug(browser)
    page = (await browser.get("/checkout")).text
    cart = browser.cookies["shop_cart"]
    for _ in range(2):
        browser.cookies.set("shop_cart", cart, domain="service.local", path="/")  # as it was at the click
        answer = await browser.post("/checkout", data={**keys_in(page), "payment_method": "card-ok"})
        assert answer.headers["location"] == f"/my/orders/{ORDER['id']}"
    first, second = [request for request in wire.asked if request.url.path == "/orders"]
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == keys_in(page)["order_key"]
    assert first.content == second.content


async def test_an_order_that_nobody_answered_keeps_its_key_for_the_next_try(browser: httpx.AsyncClient, wire: Wire) -> None:
    await signed_in_with_a_mug(browser)
    wire.answers["POST", "/orders"] = (504, {"code": "timeout"})
    page = (await browser.get("/checkout")).text
    answer = await browser.post("/checkout", data={**keys_in(page), "payment_method": "card-ok"})
    assert "one order, however often" in answer.text
    assert keys_in(answer.text)["order_key"] == keys_in(page)["order_key"]
    assert keys_in((await browser.get("/checkout")).text)["order_key"] != keys_in(page)["order_key"]


async def test_an_order_that_is_being_placed_is_waited_for(browser: httpx.AsyncClient, wire: Wire) -> None:
    await signed_in_with_a_mug(browser)
    wire.busy = 2
    answer = await send(browser, "/checkout", "/checkout", payment_method="card-ok")
    assert answer.headers["location"] == f"/my/orders/{ORDER['id']}"


async def test_a_key_that_was_made_up_is_not_passed_on(browser: httpx.AsyncClient, wire: Wire) -> None:
    await signed_in_with_a_mug(browser)
    await send(browser, "/checkout", "/checkout", payment_method="card-ok", order_key="a\r\nb")
    [placed] = [request for request in wire.asked if request.url.path == "/orders"]
    assert len(placed.headers["idempotency-key"]) == 22


async def test_a_settled_order_is_not_asked_for_again(browser: httpx.AsyncClient, wire: Wire) -> None:
    await signed_in_with_a_mug(browser)
    settled = {**ORDER, "status": "cancelled", "reason": "out_of_stock", "settled_at": "2026-11-23T07:00:01Z"}
    wire.answers["GET", f"/orders/{ORDER['id']}"] = (200, settled)
    page = await browser.get(f"/my/orders/{ORDER['id']}")
    assert 'http-equiv="refresh"' not in page.text
    assert "not enough of it in stock" in page.text


async def test_while_orders_is_down_the_cart_is_kept_and_the_page_says_so(browser: httpx.AsyncClient, wire: Wire) -> None:
    await signed_in_with_a_mug(browser)
    del wire.answers["POST", "/orders"]
    answer = await send(browser, "/checkout", "/checkout", payment_method="card-ok")
    assert answer.status_code == 503
    assert "your cart is kept" in answer.text
    assert 'value="2"' in (await browser.get("/cart")).text


async def test_while_the_catalog_is_down_there_is_a_page_that_says_so(browser: httpx.AsyncClient, wire: Wire) -> None:
    wire.answers.clear()
    page = await browser.get("/")
    assert page.status_code == 503
    assert "can’t be reached right now" in page.text


async def test_a_form_that_did_not_come_from_our_page_changes_nothing(browser: httpx.AsyncClient, wire: Wire) -> None:
    await signed_in_with_a_mug(browser)
    assert (await browser.post("/checkout", data={"payment_method": "card-ok"})).status_code == 403
    assert (await browser.post("/checkout", data={"form_key": "x", "payment_method": "card-ok"})).status_code == 403
    assert (await browser.post("/cart", data={"sku": "mug", "quantity": "0", "action": "set"})).status_code == 403
    assert not [request for request in wire.asked if request.url.path == "/orders"]


async def test_a_wrong_password_says_so_without_saying_which_part(browser: httpx.AsyncClient, wire: Wire) -> None:
    wire.answers["POST", "/auth/token"] = (400, {"error": "invalid_grant"})
    answer = await send(browser, "/sign-in", "/sign-in", username="ada", password="wrong")
    assert answer.status_code == 401
    assert "don’t belong together" in answer.text


async def test_a_refused_token_leads_back_through_the_sign_in_page(browser: httpx.AsyncClient, wire: Wire) -> None:
    await signed_in_with_a_mug(browser)
    wire.answers["GET", "/orders"] = (401, {"code": "unauthorized"})
    answer = await browser.get("/my/orders")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?back=/my/orders")


async def test_a_cookie_that_was_changed_is_no_session(browser: httpx.AsyncClient) -> None:
    await signed_in_with_a_mug(browser)
    forged = browser.cookies["shop_session"].replace("e", "f", 1)
    browser.cookies.clear()
    browser.cookies.set("shop_session", forged)
    assert "/sign-in" in (await browser.get("/my/orders")).headers["location"]


def test_a_seal_is_good_for_one_purpose_and_one_secret() -> None:
    text = Seal("one").close("cart", {"mug": 1})
    assert Seal("one").open("cart", text, dict) == {"mug": 1}
    assert Seal("one").open("session", text, dict) is None
    assert Seal("two").open("cart", text, dict) is None
    assert Seal("one").open("cart", "rubbish", dict) is None


@pytest.mark.parametrize("path", ["https://evil.example", "//evil.example", "/\\evil.example", "", "cart", "/a\nb"])
def test_nobody_is_sent_elsewhere_after_signing_in(path: str) -> None:
    assert _inside(path) == "/"


def test_the_secret_of_the_example_signs_nothing_outside_a_developers_machine() -> None:
    StorefrontSettings(session_secret=DEMO_SECRET, atoll_mode="local").checked()
    with pytest.raises(SystemMistake, match="everybody knows"):
        StorefrontSettings(session_secret=DEMO_SECRET, atoll_mode="deployed").checked()


def test_a_picture_is_the_same_for_the_same_product() -> None:
    assert picture("mug") == picture("mug") != picture("bowl")
    assert "<svg" in picture('"><script>')
    assert "script" not in picture('"><script>')


def test_money_is_shown_as_people_write_it() -> None:
    from decimal import Decimal

    assert (money(Decimal("1234.5"), "EUR"), money(Decimal("3"), "CHF")) == ("€1,234.50", "3.00 CHF")
