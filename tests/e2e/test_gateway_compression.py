"""Answers in fewer bytes: for whom, which of them, and what stays as it was."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import brotli  # type: ignore[import-untyped]
import httpx
import pytest
import zstandard

from tests.support.gateway import Rig, contract, gateway, known, replica, upstreams

PUBLIC: dict[str, Any] = {"security": []}
ORDERS = contract(
    "orders",
    {
        "/orders": {"get": PUBLIC},
        "/orders/stream": {"get": {**PUBLIC, "x-atoll-streaming": True}},
        "/orders/sse": {"get": PUBLIC},
    },
)
LEGACY = contract("legacy", {})
DECODE: dict[str, Callable[[bytes], bytes]] = {
    "br": brotli.decompress,
    "gzip": gzip.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().stream_reader(body).read(),
}
SIZE = 20_000


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        rig = runner.run(_shop(tmp_path_factory.mktemp("compression"), stack))
        with httpx.Client(base_url=rig.url, timeout=20) as http:
            yield http
        runner.run(stack.aclose())


async def _shop(folder: Path, stack: AsyncExitStack) -> Rig:
    one, two = await stack.enter_async_context(upstreams(folder, "orders-1", "legacy-1"))
    replicas = (replica(ORDERS, "orders-1", one.address), replica(LEGACY, "legacy-1", two.address))
    what = known(ORDERS, LEGACY, replicas=replicas, compression=True, fallback="legacy")
    return await stack.enter_async_context(gateway(folder / "gateway", what))


def _ask(http: httpx.Client, path: str, takes: str, **query: str | int) -> tuple[httpx.Response, bytes]:
    """The answer, and its body as it came over the wire."""
    with http.stream("GET", path, params={"size": SIZE, **query}, headers={"accept-encoding": takes}) as answer:
        return answer, b"".join(answer.iter_raw())


@pytest.mark.parametrize(
    ("takes", "used"),
    [
        ("gzip", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, deflate", "gzip"),
        ("gzip, zstd", "gzip"),
        ("zstd, gzip", "zstd"),
        ("br;q=0.5, gzip", "gzip"),
        ("br;q=0, gzip", "gzip"),
        ("*", "br"),
    ],
)
def test_the_client_decides_and_among_equals_brotli_comes(shop: httpx.Client, takes: str, used: str) -> None:
    answer, raw = _ask(shop, "/orders", takes)

    assert answer.headers["content-encoding"] == used
    assert answer.headers["vary"].lower() == "accept-encoding"
    assert "content-length" not in answer.headers
    assert len(raw) < SIZE / 10
    assert len(DECODE[used](raw)) == SIZE


@pytest.mark.parametrize("takes", ["identity", "deflate", "gzip;q=0", ""])
def test_who_takes_nothing_of_it_gets_the_bytes_as_they_are(shop: httpx.Client, takes: str) -> None:
    answer, raw = _ask(shop, "/orders", takes)

    assert "content-encoding" not in answer.headers
    assert len(raw) == SIZE
    # A cache must not give this answer to somebody who would have got another.
    assert answer.headers["vary"].lower() == "accept-encoding"


@pytest.mark.parametrize(
    "query",
    [
        {"size": 1023},
        {"type": "image/png"},
        {"type": "application/octet-stream"},
        {"header-cache-control": "no-transform"},
        {"status": 206},
    ],
)
def test_what_would_gain_nothing_or_must_not_change_is_left(shop: httpx.Client, query: dict[str, Any]) -> None:
    answer, raw = _ask(shop, "/orders", "gzip, br", **query)

    assert "content-encoding" not in answer.headers
    assert len(raw) == query.get("size", SIZE)


def test_what_is_compressed_already_stays_so(shop: httpx.Client) -> None:
    answer, raw = _ask(shop, "/orders", "gzip, br", **{"header-content-encoding": "x-own"})

    assert answer.headers["content-encoding"] == "x-own"
    assert len(raw) == SIZE


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "text/html; charset=utf-8", "application/problem+json"])
def test_text_of_every_kind_is_compressed(shop: httpx.Client, kind: str) -> None:
    assert _ask(shop, "/orders", "br", type=kind)[0].headers["content-encoding"] == "br"


@pytest.mark.parametrize(("tag", "becomes"), [('"7"', 'W/"7"'), ('W/"7"', 'W/"7"')])
def test_a_strong_tag_becomes_a_weak_one(shop: httpx.Client, tag: str, becomes: str) -> None:
    """Other bytes of the same meaning; a service compares If-None-Match weakly (RFC 9110 §13.1.2)."""
    compressed, _ = _ask(shop, "/orders", "br", **{"header-etag": tag})
    plain, _ = _ask(shop, "/orders", "identity", **{"header-etag": tag})

    assert (compressed.headers["etag"], plain.headers["etag"]) == (becomes, tag)


def test_server_sent_events_are_neither_compressed_nor_held_back(shop: httpx.Client) -> None:
    """The service sends the next one when the client has said, in another request, that it has the one before."""
    headers = {"accept-encoding": "gzip, br, zstd"}
    with shop.stream("GET", "/orders/sse?stream=10&until=acknowledged", headers=headers) as answer:
        pieces = []
        for piece in answer.iter_raw():
            pieces.append(piece)
            assert shop.get("/orders", params={"acknowledge": 1}).status_code == 200

    assert "content-encoding" not in answer.headers
    assert pieces == [b"data: %d\n\n" % number for number in range(10)]


@pytest.mark.parametrize("path", ["/orders/stream", "/of/the/fallback"])
def test_streams_and_the_fallback_pass_as_they_are(shop: httpx.Client, path: str) -> None:
    answer, raw = _ask(shop, path, "gzip, br, zstd")

    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers
    assert len(raw) == SIZE


def test_the_gateways_own_page_is_compressed(shop: httpx.Client) -> None:
    page = shop.get("/docs", headers={"accept-encoding": "gzip"})

    assert page.headers["content-encoding"] == "gzip"
    assert "orders" in page.text


async def test_without_being_asked_for_nothing_is_compressed(tmp_path: Path) -> None:
    async with upstreams(tmp_path, "orders-1") as (one,):
        what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", one.address),))
        async with gateway(tmp_path / "gateway", what) as rig, httpx.AsyncClient() as http:
            answer = await http.get(f"{rig.url}/orders?size={SIZE}", headers={"accept-encoding": "gzip, br, zstd"})

    assert "content-encoding" not in answer.headers
