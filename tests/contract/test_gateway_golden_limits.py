"""Envoy's configuration for limits, word for word: only the parts that a limit puts there."""

from __future__ import annotations

import json
from typing import Any

from atoll.gateway.ir import Endpoint, Gateway, Listener
from atoll.gateway.known import ServiceEntry
from atoll.gateway.translate import translate
from atoll.gateway.xds import bootstrap
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from atoll.registry.replica import Replica
from tests.support.gateway import contract, known
from tests.support.golden import check

JSON: dict[str, Any] = {"content": {"application/json": {"schema": {}}}}
FILES: dict[str, Any] = {"content": {"multipart/form-data": {"schema": {}}}}


def _gateway(paths: dict[str, Any], **system: Any) -> Gateway:
    return translate(known(contract("orders", paths), **system), Listener("127.0.0.1", 8080))


def _check(name: str, gateway: Gateway, *filters: str) -> None:
    """The filters with these words in their name, in their order, and what routes of services say of them."""
    resources = render(gateway, Folders("/shop/.atoll/gateway"))
    manager = resources["lds"][0]["filter_chains"][0]["filters"][-1]["typed_config"]
    table = resources["rds"][0]["virtual_hosts"][0]["routes"]
    routes = {
        route.get("name", str(route["match"])): {
            "metadata": route.get("metadata"),
            "filters": {key: value for key, value in route["typed_per_filter_config"].items() if _named(key, filters)},
        }
        for route in table
        if not route.get("name", "").startswith("gateway/") and route["match"].get("path") not in ("/openapi.json", "/docs")
    }
    chosen = {"filters": [one for one in manager["http_filters"] if _named(one["name"], filters)], "routes": routes}
    check(f"xds/{name}.json", json.dumps(chosen, indent=1, ensure_ascii=False) + "\n")


def _named(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name for word in words)


def test_rate_limits_are_the_golden_file() -> None:
    paths = {
        "/orders": {
            "get": {"operationId": "mine", "x-atoll-rate-limit": "10/s"},
            "post": {"operationId": "place", "security": [], "x-atoll-rate-limit": "5/h"},
        }
    }
    _check("rate_limits", _gateway(paths, rate_limit="600/min", address_rate_limit="500/s"), "rate_limit")


def test_body_limits_are_the_golden_file() -> None:
    paths = {
        "/orders": {"post": {"operationId": "place", "requestBody": JSON, "x-atoll-body-limit-bytes": 4096}},
        "/orders/scans": {"post": {"operationId": "scan", "requestBody": FILES, "x-atoll-body-limit-bytes": 20_000_000}},
    }
    _check("body_limits", _gateway(paths), "filter_chain", "buffer")


def test_nothing_is_limited_that_nobody_limits() -> None:
    """But the filters are there: the listener, and every bucket in it, stays as it is when the first limit comes."""
    none, some = _gateway({"/orders": {"get": {}}}), _gateway({"/orders": {"get": {"x-atoll-rate-limit": "10/s"}}})
    folders = Folders("/shop/.atoll/gateway")

    assert render(none, folders)["lds"] == render(some, folders)["lds"]
    assert "rate" not in json.dumps(render(none, folders)["rds"][0]["virtual_hosts"][0]["routes"][-3:])


def test_overload_is_the_golden_file() -> None:
    """A service's concurrency, in its cluster; the gateway's own, in the bootstrap."""
    contract_ = contract("orders", {"/orders": {"get": {}}})
    entry = ServiceEntry(kind="service", prefix="/orders", digests=(contract_.digest,), concurrency=64)
    what = known(contract_, services={"orders": entry}, memory_limit_mib=512, cpu_limit_percent=90)
    gateway, folders = translate(what, Listener("127.0.0.1", 8080)), Folders("/shop/.atoll/gateway")
    (cluster,) = render(gateway, folders)["cds"]
    chosen = {
        "circuit_breakers": cluster["circuit_breakers"],
        "overload_manager": bootstrap.document(folders, Endpoint("127.0.0.1", 9901), gateway.overload)["overload_manager"],
    }

    check("xds/overload.json", json.dumps(chosen, indent=1) + "\n")


def test_of_several_gateways_each_gives_its_share_and_at_least_one_request() -> None:
    paths = {"/orders": {"get": {"operationId": "many", "x-atoll-rate-limit": "8/h"}, "post": {"x-atoll-rate-limit": "2/h"}}}
    gateways = tuple(Replica("gateway", name, "10.0.0.1:8080") for name in "abcd")
    what = known(contract("orders", paths), replicas=gateways)

    (table,) = render(translate(what, Listener("127.0.0.1", 8080)), Folders("/shop/.atoll/gateway"))["rds"]

    kept = [route["metadata"]["filter_metadata"] for route in table["virtual_hosts"][0]["routes"] if "metadata" in route]
    costs = [facts["atoll.rate"]["subject"]["operation"]["cost"] for facts in kept if "atoll.rate" in facts]
    assert costs == [500_000_000, 1_000_000_000]  # of 10^9: two requests, and one
