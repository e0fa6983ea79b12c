"""Replicas come, go, restart and die under load, and nobody at the gateway notices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.busy_shop import BusyShop, busy_shop
from tests.support.waiting import until_sync

CUSTOMERS = 12  # enough that one of them meets any moment at which a request could fail


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusyShop]:
    with busy_shop(tmp_path_factory.mktemp("replicas") / "shop") as shop:
        yield shop


def pids(shop: BusyShop) -> set[int]:
    return {shop.running.processes()[name]["pid"] for name in shop.running.replicas("orders")}


def test_scaling_up_and_down_under_load_fails_no_request(shop: BusyShop) -> None:
    with shop.customers(CUSTOMERS) as answers:
        for count in (3, 1):
            shop.running.must("scale", f"orders={count}")
            assert len(shop.running.replicas("orders")) == count
            until_sync(answers.more(20), 20)
    assert answers.unexpected == []
    assert shop.books() == []


def test_a_restart_of_a_single_replica_under_load_fails_no_request_of_any_kind(shop: BusyShop) -> None:
    shop.running.must("scale", "orders=1")
    before = pids(shop)
    with shop.customers(CUSTOMERS) as answers:
        until_sync(answers.more(20), 20)
        shop.running.must("restart", "orders")
        until_sync(answers.more(20), 20)
    assert answers.unexpected == []
    assert len(answers.of("POST", 201)) >= 10
    assert before.isdisjoint(pids(shop))
    assert shop.books() == []


def test_kill_9_of_a_replica_under_load_fails_no_get(shop: BusyShop) -> None:
    shop.running.must("scale", "orders=3")
    with shop.customers(CUSTOMERS) as answers:
        for name in ("orders-2", "orders-1", "orders-3"):
            former = shop.running.processes()[name]["pid"]
            shop.running.kill(name)
            shop.running.until_ready(name, not_pid=former)
            until_sync(answers.more(20), 20)
    assert [str(one) for one in answers.of("GET") if one.status != 200] == []
    assert shop.books() == []


def test_a_restart_of_many_replicas_under_load_fails_no_request_of_any_kind(shop: BusyShop) -> None:
    shop.running.must("scale", "orders=3")
    before = pids(shop)
    with shop.customers(CUSTOMERS) as answers:
        shop.running.must("restart", "orders")
    assert answers.unexpected == []
    assert before.isdisjoint(pids(shop))
    assert shop.books() == []


def test_a_restart_of_a_service_on_sqlite_under_load_fails_no_request(shop: BusyShop) -> None:
    """It has one replica, and for a moment two processes have its data open."""
    with shop.customers(CUSTOMERS) as answers:
        shop.running.must("restart", "payments")
    assert answers.unexpected == []
    assert shop.books() == []
