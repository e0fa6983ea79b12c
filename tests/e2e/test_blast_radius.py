"""A dead service, database or bus takes down only what needs it; and what comes back finds everything as it should be.

One shop on real engines for all of it. Every test ends by comparing the books of all services: orders, stock, the card
provider's ledger, and a witness that writes down each event that it is told.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from tests.support.busy_shop import BusyShop, busy_shop
from tests.support.system import RunningSystem, running
from tests.support.waiting import until_sync

OUTAGE_S = 3.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusyShop]:
    with busy_shop(tmp_path_factory.mktemp("blast") / "shop") as shop:
        yield shop


def test_orders_are_taken_while_inventory_is_dead_and_settle_when_it_is_back(shop: BusyShop) -> None:
    with shop.client() as http:
        with shop.dead("inventory-1", "inventory-2"), shop.customers() as answers:
            until_sync(lambda: len(answers.of("POST")) >= 30, 30)
            placed = answers.of("POST", 201)[-1]
            assert http.get("/inventory/ATOLL-1").status_code == 503
        assert answers.unexpected == []
        assert '"pending"' in placed.text
    assert shop.books() == []


def test_without_catalogs_database_orders_are_placed_paid_and_confirmed(shop: BusyShop) -> None:
    with shop.client() as http:
        with shop.dead("catalog.mongodb"), shop.customers() as answers:
            until_sync(lambda: len(answers.of("POST")) >= 30, 30)
            confirmed = until_sync(lambda: [one for one in http.get("/orders").json()["items"] if one["status"] == "confirmed"])
            assert http.get(f"/payments/{confirmed[0]['id']}").status_code == 200
            assert http.get("/catalog/products").status_code == 503
        assert answers.unexpected == []
        until_sync(lambda: http.get("/catalog/products").status_code == 200, 20)
    assert shop.books() == []


def test_without_auth_whoever_is_signed_in_goes_on_also_at_an_envoy_that_starts_anew(shop: BusyShop) -> None:
    with shop.customers() as answers:
        signed_in = shop.client().headers
        shop.running.must("scale", "auth=0")
        until_sync(answers.more(30), 20)
    assert answers.unexpected == []
    pid = shop.running.processes()["envoy"]["pid"]
    shop.running.kill("envoy")
    shop.running.until_ready("envoy", not_pid=pid)
    with httpx.Client(base_url=shop.url, headers=signed_in, timeout=20) as http:
        until_sync(lambda: http.get("/orders").status_code == 200, 20)
        assert http.get("/auth/jwks").status_code == 503
    shop.running.must("scale", "auth=1")
    assert shop.books() == []


@pytest.mark.parametrize("how", ["dead", "hung"])
def test_three_seconds_without_the_bus_fail_no_request_and_nothing_is_lost_or_doubled(shop: BusyShop, how: str) -> None:
    outage: AbstractContextManager[None] = getattr(shop, how)("nats")
    with shop.customers() as answers:
        with outage:
            since_s = time.monotonic()
            until_sync(lambda: answers.cover(since_s, OUTAGE_S), 20)
        until_sync(answers.more(30), 20)
    assert answers.unexpected == []
    assert len(answers.of("POST", 201)) > 30
    assert shop.books() == []


def test_after_kill_9_of_everything_at_once_nothing_is_lost(shop: BusyShop) -> None:
    with shop.customers() as answers:
        until_sync(lambda: len(answers.of("POST", 201)) >= 20, 20)
        shop.kill_everything()
    shop.running.up()
    assert shop.books() == []


def test_a_bus_that_loses_its_store_while_all_run_loses_and_doubles_nothing_that_is_in_a_database(shop: BusyShop) -> None:
    with shop.dead("nats"):
        with shop.customers() as answers:
            until_sync(lambda: len(answers.of("POST", 201)) >= 20, 20)
        shop.wipe_bus()
    assert answers.unexpected == []
    assert shop.books() == []
    assert "the bus has lost what it stored of" in (shop.running.folder / ".atoll" / "logs" / "host.log").read_text()


def test_a_bus_that_is_wiped_between_down_and_up_loses_and_doubles_nothing_that_is_in_a_database(shop: BusyShop) -> None:
    with shop.dead_for_good("nats"), shop.customers() as answers:
        until_sync(lambda: len(answers.of("POST", 201)) >= 20, 20)
    shop.wipe_bus()
    shop.running.up()
    assert shop.books() == []


def test_what_a_wiped_bus_can_not_deliver_again_is_reported(tmp_path: Path) -> None:
    with running("pair", tmp_path / "pair") as pair, pair.client("ann") as http:
        take_notes(http, "read")
        until_sync(lambda: copies(pair) == {"read": 1})
        pair.must("scale", "right=0")
        take_notes(http, "unread")
        pair.down()
        shutil.rmtree(pair.folder / ".atoll" / "data" / "nats")
        told = pair.run("up", "--detach", "--isolated").stderr
        assert "the bus has lost what it stored of auth, left, middle, right" in told
        assert "the stream left was replaced" in pair.must("logs", "right")
        with pair.client("ann") as later:
            take_notes(later, "later")
        until_sync(lambda: copies(pair) == {"read": 1, "later": 1})


def take_notes(http: httpx.Client, *texts: str) -> None:
    for text in texts:
        assert http.post("/left/notes", json={"text": text}).status_code == 201


def copies(pair: RunningSystem) -> dict[str, int]:
    """What right has copied, and how often."""
    with pair.client() as http:
        return {copy["text"]: copy["times"] for copy in http.get("/right/copies").json()}
