"""Envoy's configuration for a small system, word for word, and Envoy's own opinion of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.engines import envoy
from atoll.gateway import validation
from atoll.gateway.files import write_resources
from atoll.gateway.ir import Document, Endpoint, Gateway, Listener, Overload
from atoll.gateway.known import Known, ServiceEntry, SystemEntry
from atoll.gateway.translate import translate
from atoll.gateway.xds import bootstrap
from atoll.gateway.xds.folders import TYPES, Folders
from atoll.gateway.xds.resources import render
from tests.support.gateway import contract, replica
from tests.support.golden import check

FOLDERS = Folders("/shop/.atoll/gateway")
READ = [{"token": ["orders:read"]}]
ORDERS = contract(
    "orders",
    {
        "/orders": {"get": {"operationId": "own_orders", "security": READ}, "post": {"operationId": "place_order"}},
        "/orders/{id}": {"get": {"operationId": "own_order", "security": READ, "x-atoll-timeout-s": 20}},
        "/orders/stream": {"get": {"operationId": "stream", "security": READ, "x-atoll-streaming": True}},
    },
)
NEWER = contract("orders", {"/orders": {"get": {"operationId": "own_orders", "security": READ}}, "/orders/new": {"get": {}}})
STOREFRONT = contract("storefront", {"/": {"get": {"operationId": "home", "security": []}}})
LEGACY = contract("legacy", {})


def _gateway() -> Gateway:
    """Orders in the middle of a rollout, a client at /, and a monolith that has the rest."""
    services = {
        "orders": ServiceEntry(kind="service", prefix="/orders", digests=(NEWER.digest, ORDERS.digest)),
        "storefront": ServiceEntry(kind="client", prefix="/", digests=(STOREFRONT.digest,)),
        "legacy": ServiceEntry(kind="service", prefix="/legacy", digests=(LEGACY.digest,)),
        "cardprovider": ServiceEntry("simulator"),
    }
    contracts = (ORDERS, NEWER, STOREFRONT, LEGACY)
    replicas = (
        replica(ORDERS, "orders-1", "127.0.0.1:2101"),
        replica(NEWER, "orders-2", "127.0.0.1:2102"),
        replica(STOREFRONT, "storefront-1", "127.0.0.1:2103"),
        replica(LEGACY, "legacy-1", "[::1]:2104"),
    )
    system = SystemEntry("shop", "http://localhost:8080", "http://localhost:8080/auth", "shop", services, fallback="legacy")
    what = Known(system, {f"{one.service}.{one.digest}": one for one in contracts}, {one.key: one for one in replicas})
    made = translate(what, Listener("127.0.0.1", 8080))
    return replace(made, documents=(Document("/openapi.json", "application/json", "{}", (("x-content", "1"),)),))


@pytest.mark.parametrize("kind", TYPES)
def test_resources_are_the_golden_files(kind: str) -> None:
    check(f"xds/{kind}.json", json.dumps(render(_gateway(), FOLDERS)[kind], indent=1, ensure_ascii=False) + "\n")


def test_the_bootstrap_is_the_golden_file() -> None:
    text = json.dumps(bootstrap.document(FOLDERS, Endpoint("127.0.0.1", 9901), Overload()), indent=1)

    check("xds/bootstrap.json", text + "\n")


async def test_envoy_accepts_the_golden_files(tmp_path: Path) -> None:
    golden = {kind: json.loads((Path(__file__).parents[1] / f"golden/xds/{kind}.json").read_text()) for kind in TYPES}
    write_resources(Folders(str(tmp_path)), golden)

    assert await validation.check(json.loads(json.dumps(golden).replace(FOLDERS.root, str(tmp_path)))) == ""


async def test_envoy_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    (tmp_path / "all.json").write_text(json.dumps({"static_resources": {"clusters": [{"name": "x", "nonsense": 1}]}}))

    assert "nonsense" in await envoy.check(envoy.find(), tmp_path / "all.json")


def test_every_route_says_what_token_it_needs() -> None:
    (table,) = render(_gateway(), FOLDERS)["rds"]

    for route in table["virtual_hosts"][0]["routes"]:
        assert "envoy.filters.http.jwt_authn" in route["typed_per_filter_config"], route
