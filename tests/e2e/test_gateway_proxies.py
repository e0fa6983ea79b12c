"""A gateway behind load balancers: who the client is for rate limits, logs and services, whatever he says himself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from atoll.gateway.known import ServiceEntry
from tests.support.gateway import Rig, contract, gateway, known, replica, upstreams

PUBLIC: dict[str, Any] = {"security": []}
ORDERS = contract("orders", {"/orders": {"get": PUBLIC}, "/orders/few": {"get": {**PUBLIC, "x-atoll-rate-limit": "2/h"}}})
PROXY, STRANGER = "127.0.0.2", "127.0.0.3"


@dataclass
class Entry:
    rig: Rig

    async def ask(self, path: str = "/orders", peer: str = PROXY, **headers: str) -> httpx.Response:
        """From one of this machine's addresses."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(local_address=peer), timeout=20) as http:
            return await http.get(self.rig.url + path, headers=named)

    async def seen(self, peer: str = PROXY, **headers: str) -> dict[str, str]:
        """What the service is told."""
        found: dict[str, str] = (await self.ask(peer=peer, **headers)).json()["headers"]
        return found

    async def client(self, peer: str = PROXY, **headers: str) -> tuple[str, str]:
        """Who it is, as the service and as the log is told."""
        answer = await self.ask(peer=peer, **headers)
        line = await self.rig.logged(answer.headers["x-request-id"])
        return answer.json()["headers"]["x-forwarded-for"], line["client"]

    async def said(self, before: bytes, peer: str = PROXY) -> bytes:
        """What comes back to one request with something before it."""
        host, port = "127.0.0.1", self.rig.listener.port
        reader, writer = await asyncio.open_connection(host, port, local_addr=(peer, 0))
        try:
            writer.write(before + b"GET /orders HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 6.6.6.6\r\nconnection: close\r\n\r\n")
            async with asyncio.timeout(20):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def entry(folder: Path, **system: Any) -> AsyncIterator[Entry]:
    async with upstreams(folder, "orders-1") as (one,):
        what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", one.address),), **system)
        async with gateway(folder / "gateway", what) as rig:
            yield Entry(rig)


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Entry]:
    async with entry(
        tmp_path, trusted_proxies=(f"{PROXY}/32", "10.0.0.0/8", "fd00::/8"), public_url="https://shop.example"
    ) as found:
        yield found


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Entry]:
    async with entry(tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    ("told", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("6.6.6.6, 2001:db8::9, fd00::1", "2001:db8::9"),
        ("nonsense", PROXY),
        ("203.0.113.9, nonsense", PROXY),
        ("", PROXY),
    ],
)
async def test_a_trusted_proxy_tells_who_the_client_is(behind: Entry, told: str, client: str) -> None:
    """The last address that is no proxy's: what stands before it, the client may have written itself."""
    service, log = await behind.client(x_forwarded_for=told)

    assert (service, log) == (client, client)


async def test_a_proxy_that_says_nothing_is_the_client(behind: Entry) -> None:
    assert await behind.client() == (PROXY, PROXY)


async def test_nobody_else_is_believed(behind: Entry) -> None:
    spoofed = {"x_forwarded_for": "203.0.113.9", "x_real_ip": "6.6.6.6", "forwarded": "for=6.6.6.6"}

    assert await behind.client(STRANGER, **spoofed) == (STRANGER, STRANGER)


async def test_without_proxies_nobody_is_believed_at_all(alone: Entry) -> None:
    assert await alone.client(x_forwarded_for="203.0.113.9") == (PROXY, PROXY)


async def test_rate_limits_count_clients_and_not_their_proxy(behind: Entry) -> None:
    async def statuses(count: int, peer: str, told: str) -> list[int]:
        return [(await behind.ask("/orders/few", peer, x_forwarded_for=told)).status_code for _ in range(count)]

    assert await statuses(3, PROXY, "203.0.113.9") == [200, 200, 429]
    assert await statuses(1, PROXY, "6.6.6.6, 203.0.113.9") == [429]
    assert await statuses(3, PROXY, "203.0.113.10") == [200, 200, 429]
    assert await statuses(3, STRANGER, "203.0.113.11") == [200, 200, 429]
    assert await statuses(1, STRANGER, "203.0.113.12") == [429]


@pytest.mark.parametrize("peer", [PROXY, STRANGER])
async def test_nothing_else_that_a_client_may_not_say_gets_through(behind: Entry, peer: str) -> None:
    said = {
        "x_request_id": "mine",
        "x_forwarded_proto": "gopher",
        "x_forwarded_host": "evil",
        "x_real_ip": "6.6.6.6",
        "x_envoy_retry_on": "5xx",
        "x_atoll_subject": "root",
        "x_envoy_external_address": "6.6.6.6",
    }
    answer = await behind.ask(peer=peer, x_forwarded_for="203.0.113.9", **said)
    seen = answer.json()["headers"]

    usual = {"host", "accept", "accept-encoding", "user-agent"}
    assert seen.keys() - usual == {"x-forwarded-for", "x-forwarded-proto", "x-request-id"}
    assert (seen["x-forwarded-proto"], seen["x-request-id"]) == ("https", answer.headers["x-request-id"])
    assert len(seen["x-request-id"]) == 36


async def test_the_client_and_not_its_proxy_decides_which_version_it_meets(tmp_path: Path) -> None:
    async with upstreams(tmp_path, "orders-1", "orders-canary-1") as (one, two):
        replicas = (replica(ORDERS, one.name, one.address), replica(ORDERS, two.name, two.address))
        entry = ServiceEntry(prefix="/orders", digests=(ORDERS.digest,), canary_percent=50)
        what = known(ORDERS, replicas=replicas, services={"orders": entry}, trusted_proxies=(f"{PROXY}/32",))
        async with gateway(tmp_path / "gateway", what) as rig:
            behind = Entry(rig)

            async def met(number: int) -> str:
                return str((await behind.ask(x_forwarded_for=f"203.0.113.{number}")).json()["replica"])

            first = [await met(number) for number in range(40)]
            again = [await met(number) for number in range(40)]

    assert first == again, "a client meets one version"
    assert set(first) == {"orders-1", "orders-canary-1"}


async def test_the_proxy_protocol_tells_who_the_client_is(tmp_path: Path) -> None:
    async with entry(tmp_path, trusted_proxies=(f"{PROXY}/32",), proxy_protocol=True) as found:
        first = b"PROXY TCP4 203.0.113.9 127.0.0.1 4000 80\r\n"

        answer = await found.said(first)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"x-forwarded-for": "203.0.113.9"' in answer or b'"x-forwarded-for":"203.0.113.9"' in answer
        assert await found.said(first, STRANGER) == b"", "only proxies may speak it"
        assert not (await found.said(b"")).startswith(b"HTTP/1.1 200 "), "and they must"
