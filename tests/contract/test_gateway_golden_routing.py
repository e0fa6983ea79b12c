"""What each routing feature adds to Envoy's configuration, word for word: one small file each."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from msgspec.structs import replace

from atoll.gateway.ir import Cors, Listener
from atoll.gateway.known import Known, ServiceEntry
from atoll.gateway.translate import translate
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from atoll.system.failures import FailureDetection, HealthCheck, OutlierEjection, Retries
from tests.support.gateway import contract, known, replica
from tests.support.golden import check

PUBLIC: dict[str, Any] = {"security": []}


def _rendered(what: Known) -> dict[str, list[dict[str, Any]]]:
    return dict(render(translate(what, Listener("127.0.0.1", 8080)), Folders("/shop/.atoll/gateway")))


def _routes(what: Known) -> list[dict[str, Any]]:
    """Those of services; the gateway's own pages stand before them."""
    routes = _rendered(what)["rds"][0]["virtual_hosts"][0]["routes"]
    return [one for one in routes if "/openapi.json" not in str(one) and "/docs" not in str(one)]


def _filters(what: Known) -> list[dict[str, Any]]:
    """What is there beside those that are always there."""
    plain = [one["name"] for one in _http_filters(Known(replace(what.system, cors=None, compression=False)))]
    return [one for one in _http_filters(what) if one["name"] not in plain]


def _http_filters(what: Known) -> list[dict[str, Any]]:
    *_, manager = _rendered(what)["lds"][0]["filter_chains"][0]["filters"]
    return list(manager["typed_config"]["http_filters"])


def _check(name: str, resources: Any) -> None:
    check(f"xds/{name}.json", json.dumps(resources, indent=1, ensure_ascii=False) + "\n")


def test_retries() -> None:
    orders = contract(
        "orders",
        {
            "/orders/{id}": {
                "get": {"operationId": "one", **PUBLIC, "x-atoll-try-timeout-s": 2},
                "put": {"operationId": "change", **PUBLIC, "x-atoll-repeatable": True},
                "post": {"operationId": "pay", **PUBLIC, "x-atoll-idempotent": True},
            }
        },
    )
    what = known(orders, replicas=(replica(orders, "orders-1", "127.0.0.1:2101"),))

    _check("retries", {"routes": _routes(what), "cluster": _rendered(what)["cds"][0]})


CORS = Cors(("https://shop.example", "https://*.partner.example"), True, 600, ("authorization",), ("etag",))


def test_failure_detection_as_the_manifest_has_it() -> None:
    orders = contract("orders", {"/orders": {"get": {"operationId": "mine", **PUBLIC}}})
    failures = FailureDetection(
        health_check=HealthCheck(interval_s=5, timeout_s=1, unhealthy_threshold=2, healthy_threshold=3),
        outlier_ejection=OutlierEjection(consecutive_failures=0, consecutive_5xx=7, ejection_s=30, max_ejection_percent=10),
        retries=Retries(count=2, budget_percent=10, min_concurrent=5, try_timeout_s=1.5),
        slow_start_s=0,
        panic_threshold_percent=40,
        max_connections=64,
    )
    services = {"orders": ServiceEntry(prefix="/orders", digests=(orders.digest,), failures=failures)}
    what = known(orders, replicas=(replica(orders, "orders-1", "127.0.0.1:2101"),), services=services)

    _check("failure_detection", {"routes": _routes(what), "cluster": _rendered(what)["cds"][0]})


def test_a_new_replica_has_a_tenth_of_what_another_has() -> None:
    orders = contract("orders", {"/orders": {"get": {"operationId": "mine", **PUBLIC}}})
    both = tuple(replica(orders, f"orders-{number}", f"127.0.0.1:210{number}") for number in (1, 2))
    what = known(orders, replicas=both)
    cluster = _rendered(dataclasses.replace(what, fresh=frozenset({both[1].key})))["cds"][0]

    assert {**cluster, "load_assignment": None} == {**_rendered(what)["cds"][0], "load_assignment": None}
    _check("new_replica", cluster["load_assignment"])


def test_no_retries_are_said_so() -> None:
    orders = contract("orders", {"/orders": {"get": {"operationId": "mine", **PUBLIC}}})
    failures = FailureDetection(retries=Retries(count=0))
    services = {"orders": ServiceEntry(prefix="/orders", digests=(orders.digest,), failures=failures)}

    routes = _routes(known(orders, services=services, fallback="orders"))

    policies = [one["route"]["retry_policy"] for one in routes if "route" in one]
    assert policies == [{"num_retries": 0}, {"num_retries": 0}], "the operation's and the fallback's"


def test_trusted_proxies() -> None:
    """How the client is found, and what services are told of it; with the PROXY protocol, who may connect."""
    orders = contract("orders", {"/orders": {"get": {"operationId": "mine", **PUBLIC}}})
    by_header = _rendered(known(orders, trusted_proxies=("10.0.0.0/8", "fd00::/8"), public_url="https://shop.example"))
    by_protocol = _rendered(known(orders, trusted_proxies=("10.0.0.0/8",), proxy_protocol=True))

    (chain,) = by_header["lds"][0]["filter_chains"]
    manager = chain["filters"][-1]["typed_config"]
    (connection,) = by_protocol["lds"][0]["filter_chains"]
    _check(
        "proxies",
        {
            "by_header": {
                "use_remote_address": manager["use_remote_address"],
                "original_ip_detection_extensions": manager["original_ip_detection_extensions"],
                "early_header_mutation_extensions": manager["early_header_mutation_extensions"],
                "request_headers_to_add": by_header["rds"][0]["request_headers_to_add"],
            },
            "by_protocol": {
                "listener_filters": by_protocol["lds"][0]["listener_filters"],
                "filter_chain_match": connection["filter_chain_match"],
            },
        },
    )
    assert "request_headers_to_add" not in by_protocol["rds"][0]


def test_cors() -> None:
    orders = contract(
        "orders",
        {"/orders": {"get": {"operationId": "own", **PUBLIC}}, "/orders/own": {"options": {"operationId": "told", **PUBLIC}}},
    )
    what = known(orders, contract("legacy", {}), cors=CORS, fallback="legacy")
    table = _rendered(what)["rds"][0]
    everywhere = {name: value for name, value in table["virtual_hosts"][0].items() if name != "routes"}

    _check("cors", {"filters": _filters(what), "everywhere": everywhere, "routes": _routes(what)})


def test_compression() -> None:
    orders = contract("orders", {"/orders": {"get": {"operationId": "follow", **PUBLIC, "x-atoll-streaming": True}}})
    what = known(orders, compression=True)

    _check("compression", {"filters": _filters(what), "routes": _routes(what)})


def test_websocket_and_http_2() -> None:
    chat = contract(
        "chat",
        {
            "/chat": {"get": {"operationId": "join", "x-atoll-upgrade": "websocket"}},
            "/chat/Say": {"post": {"operationId": "say", **PUBLIC}},
        },
        **{"x-atoll-protocol": "h2"},
    )
    what = known(chat, replicas=(replica(chat, "chat-1", "127.0.0.1:2101"),))

    _check(
        "websocket_and_h2",
        {"routes": _routes(what), "cluster": _rendered(what)["cds"][0], "tokens": _rendered(what)["ecds"][0]},
    )


def test_canary() -> None:
    stable = contract("orders", {"/orders": {"get": {"operationId": "own"}}})
    newer = contract("orders", {"/orders": {"get": {"operationId": "own"}}, "/orders/new": {"get": {"operationId": "new"}}})
    replicas = (replica(stable, "orders-1", "127.0.0.1:2101"), replica(newer, "orders-canary-1", "127.0.0.1:2102"))
    services = {
        "orders": ServiceEntry(kind="service", prefix="/orders", digests=(stable.digest, newer.digest), canary_percent=10)
    }
    what = known(stable, newer, replicas=replicas, services=services)
    actions = {one.get("name"): one.get("route") for one in _routes(what)}

    _check(
        "canary",
        {"actions": {name: action for name, action in actions.items() if action}, "tokens": _rendered(what)["ecds"][0]},
    )
