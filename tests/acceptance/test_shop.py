"""What every place where a system runs has to keep: `make acceptance`, `acceptance-compose`, `acceptance-kubernetes`."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.acceptance.deployed import Deployed
from tests.support.load import Ask, load
from tests.support.waiting import until_sync

ORDER = {"lines": [{"sku": "beeswax-candle", "quantity": 1}], "payment_method": "card-ok"}


def place(http: httpx.Client) -> str:
    answer = http.post("/orders", json=ORDER)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def ended(http: httpx.Client, order: str) -> Callable[[], str]:
    """A condition: the order is confirmed or cancelled."""

    def condition() -> str:
        answer = http.get(f"/orders/{order}")
        status = str(answer.json()["status"]) if answer.status_code == 200 else "pending"
        return "" if status == "pending" else status

    return condition


def test_an_order_goes_through_all_services_and_is_confirmed(ada: httpx.Client) -> None:
    order = place(ada)
    assert until_sync(ended(ada, order), 30) == "confirmed"
    until_sync(lambda: order in ada.get("/notifications").text, 30, "the customer is told")


def test_the_web_shop_shows_the_catalogue(deployed: Deployed) -> None:
    answer = httpx.get(deployed.url, timeout=15, follow_redirects=True)
    assert answer.status_code == 200
    assert "Beeswax" in answer.text


def test_nobody_orders_without_a_token(deployed: Deployed) -> None:
    assert httpx.post(f"{deployed.url}/orders", json=ORDER, timeout=15).status_code == 401


def test_nobody_does_what_their_scopes_do_not_allow(ada: httpx.Client) -> None:
    answer = ada.put("/inventory/beeswax-candle", json={"on_hand": 1})
    assert answer.status_code == 403, answer.text


def test_orders_are_taken_while_inventory_is_down_and_confirmed_when_it_is_back(deployed: Deployed, ada: httpx.Client) -> None:
    deployed.kill("inventory")
    try:
        order = place(ada)
        assert ada.get(f"/orders/{order}").json()["status"] == "pending"
    finally:
        deployed.revive("inventory")
    assert until_sync(ended(ada, order), 60) == "confirmed"


@pytest.mark.parametrize("service", ["catalog", "orders"])
def test_a_service_is_replaced_under_load_without_a_failed_request(deployed: Deployed, token: str, service: str) -> None:
    if deployed.irreplaceable:
        pytest.skip(deployed.irreplaceable)
    asks = {
        "catalog": Ask("GET", "/catalog/products"),
        "orders": Ask("POST", "/orders", 201, ORDER),
    }
    with load(deployed.url, lambda: asks[service], {"authorization": f"Bearer {token}"}) as answers:
        until_sync(answers.more(30), 60, "requests before")
        before = deployed.processes(service)
        deployed.replace(service)
        assert before.isdisjoint(deployed.processes(service))
        until_sync(answers.more(30), 60, "requests after")
    assert answers.unexpected == []


FORGE = """
import asyncio, os
from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Message
from atoll.errors import BusOutage
from atoll.system.variables import with_files

async def refused(bus, subject):
    try:
        await bus.publish([Message(subject, b"", b"{}")])
    except BusOutage as outage:
        return True
    return False

async def main():
    told = with_files(os.environ)
    bus = JetStreamBus(told["ATOLL_BUS_URL"], name="forger", authorities=told.get("ATOLL_BUS_CA", ""))
    await bus.start()
    assert await bus.wait_connected(10)
    for subject in ("event.payments.payment_captured.0", "event.orders.nothing.0", "keys.set", "$KV.registry.catalog.forged"):
        print(subject, "refused" if await refused(bus, subject) else "taken")
    await bus.close()

asyncio.run(main())
"""


def test_with_the_credentials_of_orders_the_bus_takes_what_orders_may_publish_and_nothing_else(deployed: Deployed) -> None:
    said = dict(line.split() for line in deployed.python("orders", FORGE).splitlines())
    assert said == {
        "event.payments.payment_captured.0": "refused",
        "event.orders.nothing.0": "taken",
        "keys.set": "refused",
        "$KV.registry.catalog.forged": "refused",
    }
