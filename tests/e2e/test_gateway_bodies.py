"""How large a body may be, per operation, with the real Envoy; and that a slow one occupies no service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import Rig, contract, gateway, known, replica, upstreams
from tests.support.tokens import Mint
from tests.support.waiting import until

MINT = Mint()
JSON: dict[str, Any] = {"content": {"application/json": {"schema": {}}}}
FILES: dict[str, Any] = {"content": {"multipart/form-data": {"schema": {}}}}
ORDERS = contract(
    "orders",
    {
        "/orders/{rest:path}": {"post": {"security": [], "x-atoll-streaming": True}},
        "/orders/small": {"post": {"security": [], "requestBody": JSON, "x-atoll-body-limit-bytes": 100}},
        "/orders/large": {"post": {"security": [], "requestBody": FILES, "x-atoll-body-limit-bytes": 3_000_000}},
        "/orders/form": {"post": {"security": [], "requestBody": JSON}},
        "/orders/stream": {"post": {"security": [], "requestBody": FILES}},
        "/orders/guarded": {"post": {"security": [{"token": []}], "requestBody": JSON}},
    },
)


@dataclass
class Shop:
    rig: Rig
    http: httpx.AsyncClient

    async def post(self, path: str, size: int, *, chunked: bool) -> httpx.Response:
        content = _pieces(size) if chunked else b"x" * size
        return await self.http.post(self.rig.url + path, content=content)


async def _pieces(size: int) -> AsyncIterator[bytes]:
    for at in range(0, size, 65_536):
        yield b"x" * min(65_536, size - at)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with upstreams(tmp_path, "orders-1") as (one,), httpx.AsyncClient(timeout=20) as http:
        what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", one.address),), body_limit_bytes=2_000_000)
        async with gateway(tmp_path / "gateway", what, MINT) as rig:
            yield Shop(rig, http)


def _limits() -> Iterator[tuple[str, int]]:
    yield "/orders/small", 100
    yield "/orders/large", 3_000_000
    yield "/orders/form", 1_048_576  # says nothing
    yield "/orders/other", 2_000_000  # of a mounted application, so the manifest says


@pytest.mark.parametrize("chunked", [False, True])
async def test_every_operation_has_its_own_limit_at_the_gateway(shop: Shop, chunked: bool) -> None:
    for path, limit in _limits():
        fits, beyond = await shop.post(path, limit, chunked=chunked), await shop.post(path, limit + 1, chunked=chunked)

        assert (fits.status_code, fits.json()["path"]) == (200, path)
        assert (beyond.status_code, beyond.json()["code"]) == (413, "too_large"), path
        assert beyond.headers["content-type"] == "application/problem+json"


async def test_a_path_without_an_operation_takes_no_more_than_the_others(shop: Shop) -> None:
    assert (await shop.post("/nothing", 2_000_001, chunked=False)).status_code == 413


async def test_a_json_body_that_takes_its_time_holds_no_handler(shop: Shop) -> None:
    async with _begun(shop, "/orders/form") as (reader, writer):
        await until(lambda: _stat(shop, "http.atoll.downstream_rq_active"), what="a request")
        # Whoever came later has been answered, and then nothing is on its way to the service.
        assert (await shop.post("/orders/form", 10, chunked=False)).status_code == 200
        await until(lambda: _idle(shop), what="an idle service")

        writer.write(b"67890")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_an_upload_streams(shop: Shop) -> None:
    async with _begun(shop, "/orders/stream") as (reader, writer):
        await until(lambda: _in_flight(shop), what="a request at the service")

        writer.write(b"67890")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_nobody_without_a_token_makes_the_gateway_keep_a_body(shop: Shop) -> None:
    async with _begun(shop, "/orders/guarded") as (reader, _writer):
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")


@asynccontextmanager
async def _begun(shop: Shop, path: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A request of which five bytes of ten have come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", shop.rig.listener.port)
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"
        writer.write(head.encode() + b"12345")
        await writer.drain()
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _idle(shop: Shop) -> bool:
    return await _in_flight(shop) == 0


async def _in_flight(shop: Shop) -> int:
    return await _stat(shop, "cluster.orders.upstream_rq_active")


async def _stat(shop: Shop, name: str) -> int:
    answer = await shop.http.get(f"http://{shop.rig.admin}/stats?format=json&filter=^{name}$")
    return int(answer.json()["stats"][0]["value"])
