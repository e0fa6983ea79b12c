"""Who owns a path: every conflict is refused before anything changes, and both sides are named with their line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atoll.errors import SystemMistake
from atoll.host.contracts import check
from atoll.system.manifest import System, parse
from tests.support.gateway import contract

GET: dict[str, Any] = {"get": {"operationId": "one", "security": []}}
MANIFEST = """format = 1
name = "shop"
[services.orders]
[services.inventory]
[services.history]
prefix = "/orders/history"
[services.storefront]
kind = "client"
prefix = "/"
"""


@pytest.fixture
def system() -> System:
    return parse(MANIFEST, Path("atoll.toml"))


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("orders", "/orders"),
        ("orders", "/orders/{id}"),
        ("history", "/orders/history/{year}"),
        ("storefront", "/"),
        ("storefront", "/{page}"),
        ("auth", "/auth/token"),
    ],
)
def test_a_path_below_the_own_prefix_is_ones_own(system: System, service: str, path: str) -> None:
    check(system, {service: contract(service, {path: GET})})


@pytest.mark.parametrize(
    ("service", "path", "said"),
    [
        ("orders", "/stock", "outside its prefix /orders, which belongs to storefront by its prefix / (atoll.toml:7)"),
        (
            "orders",
            "/inventory/x",
            "outside its prefix /orders, which belongs to inventory by its prefix /inventory (atoll.toml:4)",
        ),
        ("orders", "/ordersx", "outside its prefix /orders"),
        ("orders", "/orders/history/{id}", "which belongs to history by its prefix /orders/history (atoll.toml:5)"),
        ("storefront", "/orders", "which belongs to orders by its prefix /orders (atoll.toml:3)"),
        ("storefront", "/auth/login", "which belongs to auth by its prefix /auth"),
        ("auth", "/login", "outside its prefix /auth"),
        ("storefront", "/docs", "which is the gateway's own"),
        ("storefront", "/openapi.json", "which is the gateway's own"),
        ("storefront", "/health/live", "which is the gateway's own"),
    ],
)
def test_a_path_of_somebody_else_is_refused_and_both_are_named(system: System, service: str, path: str, said: str) -> None:
    with pytest.raises(SystemMistake) as refused:
        check(system, {service: contract(service, {path: GET})})

    assert refused.value.detail.startswith(f"{service} offers GET {path}")
    assert said in refused.value.detail
    assert refused.value.where.startswith("atoll.toml") or service == "auth"


def test_two_templates_that_match_the_same_paths_are_refused(system: System) -> None:
    twice = contract("orders", {"/orders/{id}": GET, "/orders/{order_id}": {"get": {"operationId": "other"}}})

    with pytest.raises(SystemMistake, match=r"/orders/\{id\} \(one\) and /orders/\{order_id\} \(other\): that is one path"):
        check(system, {"orders": twice})


def test_two_methods_on_one_path_are_two_operations(system: System) -> None:
    both = contract("orders", {"/orders/{id}": GET, "/orders/{order_id}": {"put": {"operationId": "other"}}})

    check(system, {"orders": both})


def test_whom_a_mirror_asks_may_have_the_prefix_and_the_paths_of_whom_clients_ask() -> None:
    mirrored = (
        f'{MANIFEST}[services.orders_next]\nprefix = "/orders"\n[gateway.mirrors.next]\nfrom = "orders"\nto = "orders_next"\n'
    )
    system = parse(mirrored, Path("atoll.toml"))
    paths = {"/orders/{id}": GET, "/orders/history/{year}": {"get": {"operationId": "year"}}}

    check(system, {"orders_next": contract("orders_next", paths), "orders": contract("orders", {"/orders/{id}": GET})})

    with pytest.raises(SystemMistake, match="outside its prefix /orders"):
        check(system, {"orders_next": contract("orders_next", {"/elsewhere": GET})})
