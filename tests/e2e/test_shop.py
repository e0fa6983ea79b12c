"""The shop as its customers know it: through the gateway, with an ordinary HTTP client, on real engines."""

from __future__ import annotations

import json
import re
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest

from atoll.system import files
from tests.support.shop import Customer, Shop
from tests.support.system import ROOT
from tests.support.waiting import until_sync


def levels(shop: Shop, *skus: str) -> dict[str, tuple[int, int]]:
    """on_hand and reserved by SKU."""
    return {sku: (level["on_hand"], level["reserved"]) for sku in skus if (level := shop.stock(sku))}


def await_levels(shop: Shop, expected: dict[str, tuple[int, int]]) -> None:
    """Inventory hears of an order's end a moment after the customer can see it."""
    until_sync(lambda: levels(shop, *expected) == expected, 10, f"the stock is {expected}")


def kinds(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(entry["kind"], entry["status"]) for entry in entries]


# the whole way


def test_somebody_new_registers_lists_orders_and_gets_exactly_what_was_ordered(shop: Shop) -> None:
    with shop.client() as anybody:
        listed = anybody.get("/catalog/products", params={"limit": 5}).json()["items"]
    first, second = listed[0], listed[1]
    before = levels(shop, first["sku"], second["sku"])
    with shop.client(shop.token(*shop.register())) as http:
        customer = Customer(shop, http)
        order = customer.place({first["sku"]: 2, second["sku"]: 3})
        assert Decimal(order["total"]) == 2 * Decimal(first["price"]) + 3 * Decimal(second["price"])
        settled = customer.settled(order["id"])
        assert (settled["status"], settled["reason"]) == ("confirmed", None)
        assert [found["id"] for found in http.get("/orders").json()["items"]] == [order["id"]]
        payment = http.get(f"/payments/{order['id']}").json()
    assert (payment["status"], payment["amount"]) == ("authorized", order["total"])
    sold = {first["sku"]: 2, second["sku"]: 3}
    await_levels(shop, {sku: (on_hand - sold[sku], 0) for sku, (on_hand, _) in before.items()})
    assert kinds(shop.ledger(order["id"])) == [("charge", "approved")]
    assert shop.ledger(order["id"])[0]["amount"] == order["total"]


def test_an_order_for_more_than_there_is_ends_cancelled_with_the_stock_unchanged(shop: Shop, customer: Customer) -> None:
    shop.set_stock("tide-clock", 7)
    before = levels(shop, "tide-clock", "enamel-mug")
    order = customer.place({"enamel-mug": 1, "tide-clock": 8})
    settled = customer.settled(order["id"])
    assert (settled["status"], settled["reason"]) == ("cancelled", "out_of_stock")
    await_levels(shop, before)
    assert shop.ledger(order["id"]) == []


def test_a_declined_order_ends_cancelled_with_the_stock_unchanged(shop: Shop, customer: Customer) -> None:
    before = levels(shop, "enamel-mug")
    order = customer.place({"enamel-mug": 3}, "card-declined")
    settled = customer.settled(order["id"])
    assert (settled["status"], settled["reason"]) == ("cancelled", "payment_declined")
    await_levels(shop, before)
    assert kinds(shop.ledger(order["id"])) == [("charge", "declined")]


def test_the_last_pieces_go_to_those_who_were_first(shop: Shop, customer: Customer) -> None:
    shop.set_stock("gull-kite", 5)
    orders = [customer.place({"gull-kite": 2}) for _ in range(4)]
    ends = [customer.settled(order["id"])["status"] for order in orders]
    assert ends == ["confirmed", "confirmed", "cancelled", "cancelled"]
    await_levels(shop, {"gull-kite": (1, 0)})


def test_an_order_that_is_cancelled_while_its_card_is_charged_costs_nothing(shop: Shop, customer: Customer) -> None:
    before = levels(shop, "linen-towel")
    shop.system.kill("cardprovider-1", signal.SIGSTOP)
    try:
        order = customer.place({"linen-towel": 2})
        path = f"/payments/{order['id']}"
        until_sync(lambda: customer.http.get(path).status_code == 200, 10, "payments asks the card provider")
        cancelled = customer.http.post(f"/orders/{order['id']}/cancellation")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    finally:
        shop.system.kill("cardprovider-1", signal.SIGCONT)
    until_sync(lambda: customer.http.get(path).json()["status"] == "refunded", 20, "the money is given back")
    assert kinds(shop.ledger(order["id"])) == [("charge", "approved"), ("refund", "approved")]
    assert customer.order(order["id"])["status"] == "cancelled"
    await_levels(shop, before)


def test_a_new_price_reaches_new_orders_and_a_retired_product_none(shop: Shop, customer: Customer) -> None:
    with shop.client(shop.token("grace", "demo-only-grace")) as staff:
        product = {"sku": "sea-glass", "name": "Sea glass", "price": "3.00"}
        assert staff.post("/catalog/products", json=product).status_code == 201
        sea_glass = {"lines": [{"sku": "sea-glass", "quantity": 1}], "payment_method": "card-ok"}
        until_sync(lambda: customer.http.post("/orders", json=sea_glass).status_code == 201, 10, "orders knows of it")
        assert staff.put("/catalog/products/sea-glass", json={"name": "Sea glass", "price": "4.00"}).status_code == 200
        until_sync(lambda: customer.http.post("/orders", json=sea_glass).json()["total"] == "4.00", 10, "the new price")
        assert staff.delete("/catalog/products/sea-glass").status_code == 204
    until_sync(lambda: customer.http.post("/orders", json=sea_glass).status_code == 422, 10, "it is sold no more")


def test_an_order_that_is_sent_five_times_at_once_with_one_key_is_placed_once(shop: Shop) -> None:
    with shop.client(shop.token(*shop.register())) as http, ThreadPoolExecutor(5) as threads:
        customer, headers = Customer(shop, http), {"idempotency-key": str(uuid.uuid4())}
        wanted = {"lines": [{"sku": "enamel-mug", "quantity": 1}], "payment_method": "card-ok"}

        def place(_: int) -> str:
            def answered() -> httpx.Response | None:
                answer = http.post("/orders", json=wanted, headers=headers)
                if answer.status_code == 409:
                    assert answer.json()["code"] == "idempotency_key_in_use"
                    return None
                return answer

            answer = until_sync(answered, 20, "it is answered")
            assert answer is not None
            assert answer.status_code == 201
            return str(answer.json()["id"])

        (order_id,) = set(threads.map(place, range(5)))
        customer.settled(order_id)
        assert [order["id"] for order in http.get("/orders").json()["items"]] == [order_id]
    assert kinds(shop.ledger(order_id)) == [("charge", "approved")]


def test_a_checkout_that_is_clicked_twice_places_one_order(shop: Shop) -> None:
    """The storefront without its script, as an impatient browser sends it: the same form twice at once."""
    username, password = shop.register()
    with httpx.Client(base_url=shop.url, timeout=20) as browser:

        def keys(path: str) -> dict[str, str]:
            return dict(re.findall(r'name="(form_key|order_key)" value="([^"]+)"', browser.get(path).text))

        signed_in = {"username": username, "password": password, "back": "/cart"}
        assert browser.post("/sign-in", data={**keys("/sign-in"), **signed_in}).status_code == 303
        chosen = {"sku": "enamel-mug", "quantity": "1", "action": "add"}
        assert browser.post("/cart", data={**keys("/products/enamel-mug"), **chosen}).status_code == 303
        form, cookies = {**keys("/checkout"), "payment_method": "card-ok"}, dict(browser.cookies)

    def click(_: int) -> str:
        answer = httpx.post(f"{shop.url}/checkout", data=form, cookies=cookies, timeout=20)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    with ThreadPoolExecutor(2) as threads:
        (order,) = set(threads.map(click, range(2)))
    with shop.client(shop.token(username, password)) as http:
        assert [f"/my/orders/{one['id']}" for one in http.get("/orders").json()["items"]] == [order]


# what is told


def test_a_stream_of_messages_resumes_where_it_was_left(customer: Customer) -> None:
    orders = [customer.place({"enamel-mug": 1}), customer.place({"enamel-mug": 1}, "card-declined")]
    for order in orders:
        customer.settled(order["id"])
    with customer.http.stream("GET", "/notifications/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = messages(answer)
        first, second = next(told), next(told)
    assert {first["kind"], second["kind"]} == {"order_confirmed", "order_cancelled"}
    resumed = {"last-event-id": str(first["id"])}
    with customer.http.stream("GET", "/notifications/stream", headers=resumed) as answer:
        assert next(messages(answer)) == second
    listed = customer.http.get("/notifications").json()["items"]
    assert listed == [second, first]


def messages(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_nobody_sees_what_is_somebody_elses(shop: Shop, customer: Customer) -> None:
    order = customer.place({"enamel-mug": 1})
    customer.settled(order["id"])
    with shop.client(shop.token("ada", "demo-only-ada")) as ada:
        for path in (f"/orders/{order['id']}", f"/payments/{order['id']}"):
            assert (ada.get(path).status_code, customer.http.get(path).status_code) == (404, 200)
        assert ada.post(f"/orders/{order['id']}/cancellation").status_code == 404
        told = [message["order_id"] for message in ada.get("/notifications", params={"limit": 100}).json()["items"]]
        assert order["id"] not in told


def test_customers_may_not_do_what_staff_may(customer: Customer) -> None:
    refused = [
        customer.http.put("/inventory/enamel-mug", json={"on_hand": 1}),
        customer.http.post("/catalog/products", json={"sku": "x", "name": "x", "price": "1.00"}),
        customer.http.delete("/catalog/products/enamel-mug"),
    ]
    assert [answer.status_code for answer in refused] == [403, 403, 403]
    assert {answer.headers["content-type"] for answer in refused} == {"application/problem+json"}


# bad input

MUG = {"sku": "enamel-mug", "quantity": 1}


def order_of(*lines: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"lines": list(lines), "payment_method": "card-ok", **more}).encode()


BAD: dict[str, tuple[bytes, int, str, list[str]]] = {
    "malformed JSON": (b'{"lines": [', 400, "malformed", []),
    "not UTF-8": (b'{"lines": "\xff\xfe"}', 400, "malformed", []),
    "a list for an object": (b"[]", 422, "invalid", ["body"]),
    "a text for a number": (order_of({"sku": "enamel-mug", "quantity": "one"}), 422, "invalid", ["lines[0].quantity"]),
    "half a mug": (order_of({"sku": "enamel-mug", "quantity": 0.5}), 422, "invalid", ["lines[0].quantity"]),
    "a negative quantity": (order_of({"sku": "enamel-mug", "quantity": -1}), 422, "invalid", ["lines[0].quantity"]),
    "too many": (order_of({"sku": "enamel-mug", "quantity": 101}), 422, "invalid", ["lines[0].quantity"]),
    "no lines": (order_of(), 422, "invalid", ["lines"]),
    "unknown fields": (order_of({**MUG, "price": "0.01"}, total="0.01"), 422, "invalid", ["lines[0].price", "total"]),
    "three faults, one nested": (
        b'{"lines": [{"quantity": 0}], "payment_method": "cheque"}',
        422,
        "invalid",
        ["lines[0].quantity", "lines[0].sku", "payment_method"],
    ),
    "the same twice": (order_of(MUG, MUG), 422, "invalid", ["lines[1].sku"]),
    "an unknown SKU": (order_of({"sku": "unicorn", "quantity": 1}), 422, "unknown_sku", []),
    "a huge body": (order_of(MUG, padding="x" * (2 << 20)), 413, "too_large", []),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_order_is_refused_with_the_reason_and_nothing_is_written(shop: Shop, customer: Customer, what: str) -> None:
    body, status, code, fields = BAD[what]
    before = levels(shop, "enamel-mug")
    answer = customer.http.post("/orders", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert sorted(fault["field"] for fault in problem.get("errors", [])) == fields
    assert customer.http.get("/orders").json() == {"items": [], "next": None}
    assert levels(shop, "enamel-mug") == before


def test_a_wrong_verb_is_refused_with_the_right_ones_and_an_unknown_path_is_not_found(customer: Customer) -> None:
    wrong = customer.http.delete("/orders")
    assert wrong.status_code == 405
    assert {verb.strip() for verb in wrong.headers["allow"].split(",")} >= {"GET", "POST"}
    unknown = customer.http.get("/nothing/here")
    assert unknown.status_code == 404
    for answer in (wrong, unknown):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code


def test_without_a_token_only_what_is_public_can_be_had(shop: Shop) -> None:
    with shop.client() as anybody:
        assert anybody.get("/catalog/products").status_code == 200
        assert anybody.get("/inventory/enamel-mug").status_code == 200
        for path in ("/orders", "/notifications", "/payments/00000000-0000-0000-0000-000000000000"):
            answer = anybody.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")


# what it stands on


def test_the_accepted_contracts_are_what_the_code_says(shop: Shop) -> None:
    system = files.read(ROOT / "examples" / "shop")
    names = [spec.name for spec in system.services if spec.kind != "simulator"]
    derived = {name: files.load_contract(shop.system.folder / ".atoll" / "contracts" / f"{name}.json") for name in names}
    assert [str(difference) for difference in files.compare(system, derived)] == []
