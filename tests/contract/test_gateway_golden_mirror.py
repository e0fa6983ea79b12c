"""What a mirror adds to Envoy's configuration, word for word, and that nothing else changes."""

from __future__ import annotations

import json
from typing import Any

from atoll.gateway.ir import Endpoint, Listener
from atoll.gateway.known import Known, MirrorEntry
from atoll.gateway.translate import translate
from atoll.gateway.xds import capture
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from tests.support.gateway import contract, known, replica
from tests.support.golden import check

PUBLIC: dict[str, Any] = {"security": []}
COMPARER = Endpoint("127.0.0.1", 2300)
ORDERS = contract(
    "orders",
    {
        "/orders/{id}": {
            "get": {"operationId": "one", "security": [{"token": ["orders:read"]}]},
            "head": {"operationId": "there", **PUBLIC},
            "put": {"operationId": "change", **PUBLIC},
            "post": {"operationId": "pay", **PUBLIC, "x-atoll-idempotent": True},
        }
    },
)
LEGACY, REVIEWS, NEXT = contract("legacy", {}), contract("reviews", {"/reviews": {"get": PUBLIC}}), contract("orders_next", {})
MIRRORS = {
    "next": MirrorEntry("orders", "orders_next", share=0.05, unsafe=("POST /orders/{id}",), ignore=("header:etag",)),
    "reviews": MirrorEntry("legacy", "reviews", ("/reviews",), 0.5, unsafe=("POST /reviews", "DELETE /reviews/{sku}")),
}


def _known(mirrors: dict[str, MirrorEntry]) -> Known:
    replicas = (replica(ORDERS, "orders-1", "127.0.0.1:2101"),)
    return known(ORDERS, LEGACY, REVIEWS, NEXT, replicas=replicas, fallback="legacy", mirrors=mirrors)


def _rendered(mirrors: dict[str, MirrorEntry]) -> dict[str, list[dict[str, Any]]]:
    gateway = translate(_known(mirrors), Listener("127.0.0.1", 8080, comparer=COMPARER))
    return dict(render(gateway, Folders("/shop/.atoll/gateway")))


def _routes(mirrors: dict[str, MirrorEntry]) -> list[dict[str, Any]]:
    return list(_rendered(mirrors)["rds"][0]["virtual_hosts"][0]["routes"])


def _is_twin(route: dict[str, Any]) -> bool:
    return capture.NAME in route["typed_per_filter_config"]


def test_mirrors() -> None:
    rendered = _rendered(MIRRORS)
    twins = [route for route in _routes(MIRRORS) if _is_twin(route)]
    (cluster,) = [one for one in rendered["cds"] if one["name"] == capture.CLUSTER]

    check("xds/mirrors.json", json.dumps({"twins": twins, "cluster": cluster}, indent=1, ensure_ascii=False) + "\n")


def test_what_is_mirrored_differs_from_what_is_not_in_nothing_but_its_share() -> None:
    """Each twin is followed by the route that takes the rest, or by another twin of that."""
    table = _routes(MIRRORS)
    for at, twin in enumerate(table):
        if not _is_twin(twin):
            continue
        plain = next(route for route in table[at:] if not _is_twin(route))
        others = {name: one for name, one in twin["typed_per_filter_config"].items() if name != capture.NAME}
        assert (twin["name"], twin["route"], twin.get("metadata")) == (plain["name"], plain["route"], plain.get("metadata"))
        assert others == plain["typed_per_filter_config"]


def test_a_mirror_adds_nothing_but_twins_and_takes_the_seconds_routes() -> None:
    """Nor are the second's operations in the API page, which no client could call."""
    before = [route["name"] for route in _routes({}) if "route" in route]
    after = [route["name"] for route in _routes(MIRRORS) if "route" in route and not _is_twin(route)]

    assert after == [name for name in before if not name.startswith("reviews.")]
    assert len(after) == len(before) - 1
    assert "/reviews" in json.dumps(_rendered({})["rds"])
    assert not [one for one in _routes(MIRRORS) if one.get("name") == "gateway/openapi.json" and "/reviews" in str(one)]


def test_gets_twin_leaves_head_to_the_operation_that_has_it() -> None:
    (get,) = [one for one in _routes(MIRRORS) if _is_twin(one) and one["name"] == "orders.one"]

    assert get["match"]["headers"] == [{"name": ":method", "string_match": {"exact": "GET"}}]
