"""From what is known to what the gateway does: who gets a path, which replicas, what is left out and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from atoll.gateway.ir import (
    PUBLIC,
    Border,
    Endpoint,
    Entry,
    Gateway,
    Listener,
    MethodList,
    MethodRefusal,
    Route,
    TokenRule,
    Upstream,
)
from atoll.gateway.known import Known, ServiceEntry
from atoll.gateway.translate import translate
from atoll.registry.replica import Replica
from tests.support.gateway import contract, known, replica

LISTENER = Listener("127.0.0.1", 8080)
PUBLIC_GET: dict[str, Any] = {"get": {"security": []}}


def _translate(what: Known) -> Gateway:
    return translate(what, LISTENER)


def _routes(gateway: Gateway) -> dict[str, Route]:
    return {route.name: route for route in gateway.routes if isinstance(route, Route)}


def _order(gateway: Gateway) -> list[str]:
    return [_line(one) for one in gateway.routes if not isinstance(one, MethodList)]


def _line(one: Entry) -> str:
    if isinstance(one, Border):
        return f"404 {one.prefix}"
    return f"{'|'.join(one.methods) if isinstance(one, Route) else '405'} {one.path}"


def _endpoints(gateway: Gateway) -> dict[str, list[str]]:
    return {cluster.name: [str(one) for one in cluster.endpoints] for cluster in gateway.clusters}


def test_text_beats_parameter_segment_by_segment_and_the_refusal_comes_last() -> None:
    orders = contract(
        "orders",
        {
            "/orders/{id}": {"get": {}, "delete": {}},
            "/orders/{id}/lines": PUBLIC_GET,
            "/orders/files/{rest:path}": PUBLIC_GET,
            "/orders/{id}.pdf": PUBLIC_GET,
            "/orders/search": {"post": {}},
            "/orders": PUBLIC_GET,
            "/orders/search/lines": PUBLIC_GET,
        },
    )

    assert _order(_translate(known(orders))) == [
        "GET|HEAD /orders",
        "405 /orders",
        "GET|HEAD /orders/files/{rest:path}",
        "405 /orders/files/{rest:path}",
        "POST /orders/search",
        "405 /orders/search",
        "GET|HEAD /orders/search/lines",
        "405 /orders/search/lines",
        "GET|HEAD /orders/{id}.pdf",
        "405 /orders/{id}.pdf",
        "GET|HEAD /orders/{id}",
        "DELETE /orders/{id}",
        "405 /orders/{id}",
        "GET|HEAD /orders/{id}/lines",
        "405 /orders/{id}/lines",
    ]


def test_paths_that_differ_in_parameter_names_are_one() -> None:
    orders = contract("orders", {"/orders/{id}": PUBLIC_GET, "/orders/{order_id}": {"put": {}}})

    refusals = [one for one in _translate(known(orders)).routes if isinstance(one, MethodRefusal)]

    assert [one.allow for one in refusals] == [("GET", "HEAD", "PUT", "OPTIONS")]


def test_an_operation_for_head_takes_it_from_get() -> None:
    orders = contract("orders", {"/orders": {"get": {"operationId": "get"}, "head": {"operationId": "head"}}})

    routes = _routes(_translate(known(orders)))

    assert (routes["orders.get"].methods, routes["orders.head"].methods) == (("GET",), ("HEAD",))


@pytest.mark.parametrize(
    ("operation", "rule"),
    [
        ({"security": []}, PUBLIC),
        ({"security": [{"token": []}]}, TokenRule()),
        ({"security": [{"token": ["orders:read"]}]}, TokenRule(scope="orders:read")),
        ({}, TokenRule()),
    ],
)
def test_a_token_is_needed_unless_an_operation_says_that_it_is_public(operation: dict[str, Any], rule: TokenRule) -> None:
    orders = contract("orders", {"/orders": {"get": {"operationId": "own", **operation}}})

    assert _routes(_translate(known(orders)))["orders.own"].token == rule


@pytest.mark.parametrize(
    ("operation", "timeout_s"), [({}, 15.0), ({"x-atoll-timeout-s": 20}, 30.0), ({"x-atoll-streaming": True}, None)]
)
def test_the_gateway_waits_longer_than_the_handler_may_take(operation: dict[str, Any], timeout_s: float | None) -> None:
    orders = contract("orders", {"/orders": {"get": {"operationId": "own", **operation}}})

    assert _routes(_translate(known(orders)))["orders.own"].timeout_s == timeout_s


def test_an_operation_takes_the_body_it_says_and_a_mounted_application_what_the_manifest_says() -> None:
    paths: dict[str, Any] = {
        "/orders": {"post": {"operationId": "silent"}},
        "/orders/small": {"post": {"operationId": "small", "x-atoll-body-limit-bytes": 1000}},
        "/orders/app": {"post": {"operationId": "app", "x-atoll-streaming": True}},
    }

    made = _translate(known(contract("orders", paths), body_limit_bytes=50_000_000))

    limits = {name: route.body_limit_bytes for name, route in _routes(made).items()}
    assert limits == {"orders.silent": 1_048_576, "orders.small": 1000, "orders.app": 50_000_000}
    assert made.listener.body_limit_bytes == 50_000_000


@pytest.mark.parametrize(
    ("media_types", "limit_bytes", "whole"),
    [
        (["application/json"], 1_048_576, True),
        (["application/x-www-form-urlencoded"], 1000, True),
        (["application/json"], 1_048_577, False),
        (["application/json", "multipart/form-data"], 1000, False),
        (["*/*"], 1000, False),
        ([], 1000, False),
    ],
)
def test_only_bodies_that_are_read_whole_anyway_and_are_not_large_are_kept(
    media_types: list[str], limit_bytes: int, whole: bool
) -> None:
    body: dict[str, Any] = {"content": {media_type: {"schema": {}} for media_type in media_types}}
    post = {"operationId": "place", "requestBody": body, "x-atoll-body-limit-bytes": limit_bytes}

    made = _translate(known(contract("orders", {"/orders": {"post": post}})))

    assert _routes(made)["orders.place"].whole_body is whole


def test_a_rate_limit_that_nobody_can_read_does_not_hold_and_is_told() -> None:
    made = _translate(known(rate_limit="often", address_rate_limit="7/s"))

    assert (made.limits.client, str(made.limits.address)) == (None, "7/s")
    assert [fault for fault in made.faults if "'often'" in fault]


def test_only_get_and_head_are_repeated_after_they_were_sent() -> None:
    orders = contract("orders", {"/orders": {method: {"operationId": method} for method in ("get", "post", "put", "delete")}})

    repeatable = {route.methods[0] for route in _routes(_translate(known(orders))).values() if route.repeatable}

    assert repeatable == {"GET"}


def test_what_is_declared_repeatable_is_repeated_too() -> None:
    orders = contract("orders", {"/orders": {"put": {"operationId": "put", "x-atoll-repeatable": True}}})

    assert _routes(_translate(known(orders)))["orders.put"].repeatable


def test_an_idempotency_key_gives_a_change_a_route_of_its_own_before_the_other() -> None:
    operation = {"operationId": "place", "x-atoll-idempotent": True, "x-atoll-try-timeout-s": 2}
    orders = contract("orders", {"/orders": {"post": operation}})

    keyed, plain, _options, _refusal = _translate(known(orders)).routes

    assert isinstance(keyed, Route)
    assert isinstance(plain, Route)
    assert (keyed.header, keyed.repeatable) == ("idempotency-key", True)
    assert (plain.header, plain.repeatable) == (None, False)


def test_a_try_with_an_idempotency_key_is_not_given_up_for_another_that_would_find_the_key_in_use() -> None:
    operation = {"operationId": "place", "x-atoll-idempotent": True, "x-atoll-try-timeout-s": 2}
    orders = contract("orders", {"/orders": {"post": operation}})

    keyed, plain, *_others = _translate(known(orders)).routes

    assert isinstance(keyed, Route)
    assert isinstance(plain, Route)
    assert (keyed.try_timeout_s, plain.try_timeout_s) == (None, None)


@pytest.mark.parametrize("promise", ["x-atoll-idempotent", "x-atoll-repeatable"])
@pytest.mark.parametrize("old_runs", [True, False], ids=["while it runs", "once it has gone"])
def test_what_an_older_contract_does_not_promise_is_promised_once_it_has_gone(promise: str, old_runs: bool) -> None:
    old = contract("orders", {"/orders": {"post": {"operationId": "place"}}})
    new = contract("orders", {"/orders": {"post": {"operationId": "place", promise: True}}})
    replicas = (replica(new, "orders-2", "127.0.0.1:2"), *([replica(old, "orders-1", "127.0.0.1:1")] if old_runs else []))

    routes = _translate(known(old, new, replicas=replicas)).routes

    assert any(isinstance(one, Route) and one.repeatable for one in routes) is not old_runs


def test_the_canaries_of_a_service_are_no_other_service() -> None:
    orders = contract("orders", {"/orders": {"get": {"operationId": "own"}}})
    other = contract("orders-canary", {"/orders-canary": {"get": {"operationId": "other"}}})
    replicas = (
        replica(orders, "orders-1", "127.0.0.1:1"),
        replica(orders, "orders-canary-1", "127.0.0.1:2"),
        replica(other, "orders-canary-1", "127.0.0.1:3"),
    )
    services = {
        "orders": ServiceEntry("service", "/orders", (orders.digest,), canary_percent=50),
        "orders-canary": ServiceEntry("service", "/orders-canary", (other.digest,)),
    }

    made = _translate(known(orders, other, replicas=replicas, services=services))

    clusters = {cluster.name: cluster for cluster in made.clusters}
    route = _routes(made)["orders.own"]
    assert route.canary
    assert [endpoint.port for endpoint in clusters[route.canary.cluster].endpoints] == [2]


def test_a_path_outside_of_the_prefix_or_of_the_gateway_itself_has_no_route() -> None:
    orders = contract("orders", {"/stock": PUBLIC_GET, "/ordersx": PUBLIC_GET, "/orders": PUBLIC_GET})
    root = contract("root", {"/docs": PUBLIC_GET, "/openapi.json": PUBLIC_GET, "/health/live": PUBLIC_GET, "/home": PUBLIC_GET})
    services = {
        "orders": ServiceEntry(kind="service", prefix="/orders", digests=(orders.digest,)),
        "root": ServiceEntry(kind="client", prefix="/", digests=(root.digest,)),
    }

    gateway = _translate(known(orders, root, services=services))

    assert sorted(_routes(gateway)) == ["orders.get_/orders", "root.get_/home"]
    assert len(gateway.faults) == 5
    assert "orders.get_/stock: GET /stock has no route: its paths must be under /orders" in gateway.faults


def test_the_longest_prefix_owns_a_path() -> None:
    orders = contract("orders", {"/orders/{id}": PUBLIC_GET})
    home = contract("home", {"/orders/history": PUBLIC_GET, "/history": PUBLIC_GET})
    services = {
        "home": ServiceEntry(kind="client", prefix="/", digests=(home.digest,)),
        "orders": ServiceEntry(kind="service", prefix="/orders", digests=(orders.digest,)),
    }

    gateway = _translate(known(home, orders, services=services))

    assert sorted(_routes(gateway)) == ["home.get_/history", "orders.get_/orders/{id}"]
    assert gateway.faults == ("home.get_/orders/history: GET /orders/history has no route: the path belongs to orders",)


def test_a_pattern_of_one_service_ends_at_the_prefix_of_another() -> None:
    orders = contract("orders", {"/orders/{id}": PUBLIC_GET})
    home = contract("home", {"/about": PUBLIC_GET, "/{page}": PUBLIC_GET, "/{page}/{part}": PUBLIC_GET})
    services = {
        "home": ServiceEntry(kind="client", prefix="/", digests=(home.digest,)),
        "orders": ServiceEntry(kind="service", prefix="/orders", digests=(orders.digest,)),
    }

    table = _translate(known(home, orders, services=services)).routes

    assert [str(one.prefix if isinstance(one, Border) else one.path) for one in table if isinstance(one, Border | Route)] == [
        "/about",
        "/orders/{id}",
        "/orders",
        "/{page}",
        "/{page}/{part}",
    ]


def test_options_are_answered_by_the_gateway_unless_the_service_does() -> None:
    orders = contract("orders", {"/orders": {"post": {}}, "/orders/own": {"get": {}, "options": {"security": []}}})

    lists = [one for one in _translate(known(orders)).routes if isinstance(one, MethodList)]

    assert [(str(one.path), one.allow, one.preflight) for one in lists] == [("/orders", ("POST", "OPTIONS"), False)]


def test_an_operation_for_options_that_needs_a_token_leaves_preflights_to_the_gateway() -> None:
    orders = contract("orders", {"/orders": {"options": {"security": [{"token": []}]}}})

    preflights, own, _refusal = _translate(known(orders)).routes

    assert isinstance(preflights, MethodList)
    assert isinstance(own, Route)
    assert preflights.preflight


def test_a_simulator_has_no_routes() -> None:
    provider = contract("provider", {"/provider": PUBLIC_GET})

    gateway = _translate(
        known(provider, services={"provider": ServiceEntry(kind="simulator", prefix="/provider", digests=(provider.digest,))})
    )

    assert (gateway.routes, gateway.clusters) == ((), ())


OLD = contract("orders", {"/orders": {"get": {"operationId": "own"}}, "/orders/old": {"get": {"operationId": "old"}}})
NEW = contract(
    "orders",
    {
        "/orders": {"get": {"operationId": "own", "security": [{"token": ["orders:read"]}]}},
        "/orders/new": {"get": {"operationId": "new"}},
    },
)


def test_without_replicas_the_routes_are_there_and_lead_to_nobody() -> None:
    gateway = _translate(known(OLD))

    assert _routes(gateway)["orders.own"].cluster == "orders"
    assert _endpoints(gateway) == {"orders": []}


def test_routes_go_to_replicas_whose_contract_offers_the_operation() -> None:
    replicas = (replica(OLD, "orders-1", "127.0.0.1:1"), replica(NEW, "orders-2", "127.0.0.1:2"))

    gateway = _translate(known(OLD, NEW, replicas=replicas))

    routes = _routes(gateway)
    assert routes["orders.own"].cluster == "orders"
    assert routes["orders.old"].cluster == f"orders@{OLD.digest}"
    assert routes["orders.new"].cluster == f"orders@{NEW.digest}"
    assert _endpoints(gateway) == {
        "orders": ["127.0.0.1:1", "127.0.0.1:2"],
        f"orders@{OLD.digest}": ["127.0.0.1:1"],
        f"orders@{NEW.digest}": ["127.0.0.1:2"],
    }


def test_the_newest_contract_says_what_an_operation_needs() -> None:
    assert _routes(_translate(known(OLD, NEW)))["orders.own"].token == TokenRule(scope="orders:read")
    assert _routes(_translate(known(NEW, OLD)))["orders.own"].token == TokenRule()


def test_a_new_operation_that_no_replica_offers_yet_is_503_rather_than_404() -> None:
    gateway = _translate(known(OLD, NEW, replicas=(replica(OLD, "orders-1", "127.0.0.1:1"),)))

    assert _endpoints(gateway)[_routes(gateway)["orders.new"].cluster] == []


def test_a_replica_with_a_contract_that_is_no_longer_listed_keeps_its_operations() -> None:
    what = known(OLD, NEW, replicas=(replica(OLD, "orders-1", "127.0.0.1:1"),))
    what.system.services["orders"] = ServiceEntry(kind="service", prefix="/orders", digests=(NEW.digest,))

    gateway = _translate(what)

    assert "orders.old" in _routes(gateway)
    assert _routes(gateway)["orders.own"].token == TokenRule(scope="orders:read")


def test_a_replica_that_names_no_contract_offers_everything() -> None:
    bare = Replica("orders", "orders-1", "127.0.0.1:1")

    gateway = _translate(known(OLD, NEW, replicas=(bare, replica(NEW, "orders-2", "127.0.0.1:2"))))

    assert _endpoints(gateway)[_routes(gateway)["orders.new"].cluster] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert _endpoints(gateway)[_routes(gateway)["orders.old"].cluster] == ["127.0.0.1:1"]
    assert gateway.faults == ()


def test_a_contract_that_is_missing_from_the_bucket_is_a_fault() -> None:
    what = known(OLD)
    what.system.services["orders"] = ServiceEntry(kind="service", prefix="/orders", digests=(OLD.digest, "0123456789abcdef"))

    gateway = _translate(what)

    assert gateway.faults == ("orders: the contract 0123456789abcdef is not in the bucket, or can't be read",)
    assert "orders.own" in _routes(gateway)


def test_a_contract_that_cannot_be_shown_costs_the_page_and_no_route() -> None:
    sloppy = contract("orders", {"/orders": {"get": {"operationId": "own", "parameters": "none", "responses": 7}}})

    gateway = _translate(known(sloppy))

    assert "orders.own" in _routes(gateway)
    assert gateway.documents == ()
    assert "no API page" in gateway.faults[0]


def test_the_fallback_has_what_no_service_owns() -> None:
    legacy = contract("legacy", {})

    gateway = _translate(known(OLD, legacy, fallback="legacy"))

    assert gateway.fallback == "legacy"
    assert gateway.owned == ("/health", "/orders")
    assert _translate(known(OLD, fallback="nobody")).fallback is None


def test_the_same_input_gives_the_same_gateway_in_any_order() -> None:
    replicas = [replica(OLD, f"orders-{number}", f"127.0.0.1:{number}") for number in range(1, 5)]

    assert _translate(known(OLD, replicas=tuple(replicas))) == _translate(known(OLD, replicas=tuple(reversed(replicas))))


@pytest.mark.parametrize("address", ["", "127.0.0.1", ":80", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:x"])
def test_an_address_without_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|invalid literal"):
        Endpoint.parse(address)


def test_addresses_survive_a_round_trip() -> None:
    assert [str(Endpoint.parse(one)) for one in ("127.0.0.1:80", "[::1]:80", "orders:80")] == [
        "127.0.0.1:80",
        "[::1]:80",
        "orders:80",
    ]


@pytest.mark.parametrize(
    ("address", "tls", "upstream", "fault"),
    [
        ("127.0.0.1:2100", False, Upstream(), ""),
        ("127.0.0.1:2100", False, Upstream(certified=True), ""),
        ("[::1]:2100", True, Upstream(certified=True), ""),
        ("[::1]:2100", True, Upstream(), "this gateway has no certificate to show"),
        ("10.0.0.1:2100", True, Upstream(certified=True), ""),
        ("10.0.0.1:2100", True, Upstream(), "this gateway has no certificate to show"),
        ("10.0.0.1:2100", False, Upstream(), "does not speak TLS"),
        ("10.0.0.1:2100", False, Upstream(certified=True), "does not speak TLS"),
        ("[2001:db8::1]:2100", False, Upstream(certified=True), "does not speak TLS"),
        ("10.0.0.1:2100", False, Upstream(plain=True), ""),
        ("10.0.0.1:2100", True, Upstream(certified=True, plain=True), ""),
    ],
)
def test_a_replica_on_another_machine_speaks_tls_or_is_left_out(
    address: str, tls: bool, upstream: Upstream, fault: str
) -> None:
    orders = contract("orders", {"/orders": PUBLIC_GET})
    gateway = translate(
        known(orders, replicas=(replica(orders, "orders-1", address, tls=tls),)), replace(LISTENER, upstream=upstream)
    )

    (cluster,) = gateway.clusters
    if fault:
        (told,) = gateway.faults
        assert told.startswith(f"the replica orders-1 of orders at {address} is left out")
        assert fault in told
        assert cluster.endpoints == ()
    else:
        assert gateway.faults == ()
        assert [(str(one), one.tls) for one in cluster.endpoints] == [(address, tls)]


def test_a_replica_that_is_left_out_takes_no_operation_with_it() -> None:
    """Its contract is the newest all the same: the operation is there, and nobody to take it."""
    orders = contract("orders", {"/orders": PUBLIC_GET})
    gateway = translate(known(orders, replicas=(replica(orders, "orders-1", "10.0.0.1:1"),)), LISTENER)

    assert [route.cluster for route in _routes(gateway).values()] == ["orders"]


def test_several_gateways_share_rates_and_concurrency() -> None:
    orders = contract("orders", {"/orders": {"get": {"operationId": "own", "x-atoll-rate-limit": "10/s"}}})
    services = {"orders": ServiceEntry(kind="service", prefix="/orders", digests=(orders.digest,), concurrency=9)}
    gateways = tuple(Replica("gateway", name, f"10.0.0.{at}:8080", beat=100.0) for at, name in enumerate("abcd", 1))
    silent = Replica("gateway", "gone", "10.0.0.9:8080", beat=1.0)

    made = _translate(known(orders, replicas=(*gateways, silent), services=services))

    assert made.limits.gateways == 4
    assert [cluster.concurrency for cluster in made.clusters] == [2]
    assert "gateway" not in _endpoints(made)
    assert _translate(known(orders)).limits.gateways == 1
