"""Envoy is given its route tables in a binary form of our making. It must find in them what was meant: all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atoll.gateway.admin import Admin
from atoll.gateway.diff import differences, running
from atoll.gateway.files import body
from atoll.gateway.ir import Cors, Endpoint, Listener
from atoll.gateway.known import Known, MirrorEntry, ServiceEntry
from atoll.gateway.translate import translate
from atoll.gateway.xds import binary
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from atoll.system.failures import FailureDetection, Retries
from atoll.tokens.providers import Providers
from tests.support.foreign import ForeignMint
from tests.support.gateway import contract, gateway, known, replica
from tests.support.ports import free_port

PUBLIC: dict[str, Any] = {"security": []}
JSON: dict[str, Any] = {"content": {"application/json": {"schema": {}}}}
FILES: dict[str, Any] = {"content": {"multipart/form-data": {"schema": {}}}}
ORDERS = contract(
    "orders",
    {
        "/orders": {
            "get": {"operationId": "mine", "x-atoll-rate-limit": "10/s", "security": [{"token": ["orders:read"]}]},
            "post": {"operationId": "place", "requestBody": JSON, "x-atoll-body-limit-bytes": 4096, "x-atoll-idempotent": True},
        },
        "/orders/{id}": {
            "get": {"operationId": "one", **PUBLIC, "x-atoll-try-timeout-s": 2.5, "x-atoll-streaming": True},
            "put": {"operationId": "change", **PUBLIC, "x-atoll-repeatable": True},
        },
        "/orders/scans": {"post": {"operationId": "scan", "requestBody": FILES, "x-atoll-body-limit-bytes": 20_000_000}},
        "/orders/own": {"options": {"operationId": "told", **PUBLIC}},
        "/orders/follow": {"get": {"operationId": "follow", "x-atoll-upgrade": "websocket"}},
    },
)
NEWER = contract("orders", {"/orders": {"get": {"operationId": "mine"}}, "/orders/new": {"get": {"operationId": "new"}}})
LEGACY, REVIEWS, NEXT = contract("legacy", {}), contract("reviews", {"/reviews": {"get": PUBLIC}}), contract("orders_next", {})


def _everything() -> Known:
    """All that a route can have, so that no field is written that Envoy has not read here."""
    calm = FailureDetection(retries=Retries(count=0))
    canary = ServiceEntry(prefix="/orders", digests=(ORDERS.digest, NEWER.digest), canary_percent=10)
    services = {
        "orders": canary,
        "legacy": ServiceEntry(prefix="/legacy", digests=(LEGACY.digest,)),
        "reviews": ServiceEntry(prefix="/reviews", digests=(REVIEWS.digest,), failures=calm),
        "orders_next": ServiceEntry(prefix="/orders_next", digests=(NEXT.digest,)),
    }
    mirrors = {
        "next": MirrorEntry("orders", "orders_next", share=0.05, unsafe=("POST /orders",), ignore=("header:etag",)),
        "reviews": MirrorEntry("legacy", "reviews", ("/reviews",), 0.5),
    }
    replicas = (replica(ORDERS, "orders-1", "127.0.0.1:9"), replica(NEWER, "orders-canary-1", "127.0.0.1:10"))
    what = known(
        *(ORDERS, NEWER, LEGACY, REVIEWS, NEXT),
        replicas=replicas,
        services=services,
        mirrors=mirrors,
        fallback="legacy",
        rate_limit="600/min",
        address_rate_limit="500/s",
        cors=Cors(("https://shop.example", "https://*.partner.example"), True, 600, ("authorization",), ("etag",)),
        compression=True,
        trusted_proxies=("127.0.0.0/8",),
        public_url="https://shop.example",
    )
    return replace(what, providers=Providers((ForeignMint(claim="scope").provider(),), 1))


async def test_envoy_finds_in_a_table_what_was_put_there_and_nothing_is_written_that_it_was_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[tuple[str, str]] = set()

    def recorded(message: str, name: str, field: binary.Field) -> Callable[[Any], bytes]:
        def encode(value: Any) -> bytes:
            used.add((message, name))
            return field(value)

        return encode

    every = {(message, name) for message, fields in binary.MESSAGES.items() for name in fields}
    for message, fields in binary.MESSAGES.items():
        monkeypatch.setitem(binary.MESSAGES, message, {name: recorded(message, name, one) for name, one in fields.items()})

    comparer = Endpoint("127.0.0.1", free_port())
    async with gateway(tmp_path, _everything(), comparer=comparer) as rig:
        wanted = render(translate(rig.known, rig.listener), rig.folders)
        dump = await Admin(rig.admin).dump()

    assert dump
    assert differences(wanted, running(dump)) == ()
    assert every - used == set()


def test_the_same_table_is_the_same_file_whatever_was_written_before(tmp_path: Path) -> None:
    def written() -> bytes:

        return body("rds", render(translate(_everything(), Listener("127.0.0.1", 8080)), Folders("/x"))["rds"])

    first = written()
    body("rds", render(translate(known(ORDERS), Listener("127.0.0.1", 8080)), Folders("/x"))["rds"])

    assert written() == first
