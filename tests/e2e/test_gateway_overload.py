"""What the real Envoy refuses so that the rest is served: requests beyond a service's concurrency, or beyond its own means."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from atoll.engines import envoy
from atoll.engines.process import Command
from atoll.gateway.known import ServiceEntry
from tests.support.gateway import Rig, contract, gateway, known, replica, upstreams
from tests.support.waiting import until

JSON: dict[str, Any] = {"content": {"application/json": {"schema": {}}}}
ORDERS = contract(
    "orders",
    {
        "/orders": {"get": {"operationId": "list", "security": []}},
        "/orders/keep": {"post": {"operationId": "keep", "security": [], "requestBody": JSON}},
    },
)
STOCK = contract("stock", {"/stock": {"get": {"operationId": "stock", "security": []}}})


@dataclass
class Shop:
    """Two services, one of which takes three requests at a time."""

    rig: Rig
    http: httpx.AsyncClient

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(self.rig.url + path)

    async def stat(self, name: str) -> int:
        answer = await self.http.get(f"http://{self.rig.admin}/stats?format=json&filter=^{name}$")
        return int(answer.json()["stats"][0]["value"])


@asynccontextmanager
async def _shop(folder: Path, **system: Any) -> AsyncIterator[Shop]:
    services = {
        "orders": ServiceEntry(kind="service", prefix="/orders", digests=(ORDERS.digest,), concurrency=3),
        "stock": ServiceEntry(kind="service", prefix="/stock", digests=(STOCK.digest,)),
    }
    async with AsyncExitStack() as stack:
        one, two = await stack.enter_async_context(upstreams(folder, "orders-1", "stock-1"))
        replicas = (replica(ORDERS, "orders-1", one.address), replica(STOCK, "stock-1", two.address))
        what = known(ORDERS, STOCK, replicas=replicas, services=services, **system)
        rig = await stack.enter_async_context(gateway(folder / "gateway", what))
        # A connection for each request, as strangers have.
        fresh = httpx.Limits(max_keepalive_connections=0, max_connections=None)
        yield Shop(rig, await stack.enter_async_context(httpx.AsyncClient(timeout=30, limits=fresh)))


def _overloaded(answer: httpx.Response) -> bool:
    if answer.status_code != 503:
        return False
    problem = answer.json()
    assert (problem["code"], problem["type"]) == ("overloaded", "/problems/overloaded")
    assert (answer.headers["content-type"], answer.headers["retry-after"]) == ("application/problem+json", "1")
    return True


async def test_who_is_one_too_many_for_a_service_is_told_at_once_and_everybody_else_is_served(tmp_path: Path) -> None:
    async with _shop(tmp_path) as shop:
        slow = [asyncio.create_task(shop.get("/orders?delay_s=4")) for _ in range(3)]

        async def full() -> bool:
            return await shop.stat("cluster.orders.upstream_rq_active") == 3

        await until(full)
        refused = await asyncio.gather(*(shop.get("/orders") for _ in range(5)))
        others = await asyncio.gather(*(shop.get("/stock") for _ in range(5)))

        assert not any(task.done() for task in slow)
        assert all(_overloaded(answer) for answer in refused)
        assert [answer.status_code for answer in others] == [200] * 5
        assert [answer.status_code for answer in await asyncio.gather(*slow)] == [200] * 3
        assert (await shop.get("/orders")).status_code == 200
        line = await shop.rig.logged(refused[0].headers["x-request-id"])
        assert (line["flags"], line["attempts"]) == ("UO", 1)
        assert line["why"] == "the service has as many requests in hand as it takes"
        assert await shop.stat("cluster.orders.upstream_rq_retry") == 0


async def test_headers_may_be_as_large_as_the_manifest_says(tmp_path: Path) -> None:
    async with _shop(tmp_path, max_header_size_kib=40) as shop:
        sizes = {size: await shop.http.get(f"{shop.rig.url}/stock", headers={"big": "x" * size}) for size in (30_000, 50_000)}

        assert {size: answer.status_code for size, answer in sizes.items()} == {30_000: 200, 50_000: 431}
        assert sizes[50_000].json()["code"] == "headers_too_large"


async def test_without_memory_the_gateway_sheds_requests_and_recovers_when_there_is_some(tmp_path: Path) -> None:
    """What takes the memory: bodies of which the last byte does not come."""
    async with _shop(tmp_path, memory_limit_mib=128) as shop, httpx.AsyncClient(timeout=30) as known_client:
        # New connections wait at the last, so the one who asks has one already.
        assert (await known_client.get(f"{shop.rig.url}/stock")).status_code == 200

        async def shed() -> bool:
            return _overloaded(await known_client.get(f"{shop.rig.url}/stock"))

        async with _bodies_without_end(shop, 150):
            await until(shed, timeout_s=30, what="a request that is shed")
            assert (await shop.http.get(f"http://{shop.rig.admin}/ready")).status_code == 200

        async def served() -> bool:
            return [(await shop.get("/stock")).status_code for _ in range(3)] == [200] * 3

        await until(served, timeout_s=30, what="requests that are served again")


@asynccontextmanager
async def _bodies_without_end(shop: Shop, count: int) -> AsyncIterator[None]:
    """So many requests of a megabyte each that the gateway keeps."""
    head = b"POST /orders/keep HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000001\r\n\r\n"
    writers: list[asyncio.StreamWriter] = []
    try:
        for _ in range(count):
            _reader, writer = await asyncio.open_connection("127.0.0.1", shop.rig.listener.port)
            writers.append(writer)
            writer.write(head + b"x" * 1_000_000)
        yield
    finally:
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


@dataclass
class Machine:
    """How busy Envoy finds the machine: its own `/proc/stat`, which grows as `busy` says. Others' work is not in it."""

    file: Path
    busy: float = 0.0
    worked: float = 0.0
    idle: float = 0.0

    def tick(self) -> None:
        self.worked += 1000 * self.busy
        self.idle += 1000 * (1 - self.busy)
        self.file.write_text(f"cpu  {self.worked:.0f} 0 0 {self.idle:.0f} 0 0 0 0 0 0\n")

    def show(self, command: Command) -> Command:
        """The same in a mount namespace of its own."""
        script = f'mount --bind {shlex.quote(str(self.file))} /proc/stat && exec "$@"'
        return replace(command, arguments=(*_NAMESPACE, "sh", "-c", script, "sh", *command.arguments))


_NAMESPACE = ("unshare", "--map-root-user", "--mount")


@pytest.fixture
async def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    """The one that every Envoy of this test runs on."""
    if not shutil.which("unshare") or subprocess.run([*_NAMESPACE, "true"], check=False).returncode:
        pytest.skip("this user may have no mount namespace, in which Envoy would see a machine that the test keeps busy")
    found, as_it_is = Machine(tmp_path / "stat"), envoy.command
    found.tick()
    monkeypatch.setattr(envoy, "command", lambda *args, **more: found.show(as_it_is(*args, **more)))

    async def pass_time() -> None:
        while not over.is_set():
            found.tick()
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.05)

    over = asyncio.Event()
    passing = asyncio.create_task(pass_time())
    yield found
    over.set()
    await passing


async def test_without_processor_the_gateway_sheds_requests_and_recovers_when_there_is_some(
    tmp_path: Path, machine: Machine
) -> None:
    async with _shop(tmp_path, cpu_limit_percent=20) as shop, httpx.AsyncClient(timeout=30) as standing:
        answers: list[httpx.Response] = []

        async def ask() -> list[bool]:
            """What is shed of ten requests, on new connections and on one that stands. The rest is served."""
            new = (shop.get("/stock") for _ in range(9))
            found = await asyncio.gather(*new, standing.get(f"{shop.rig.url}/stock"))
            answers.extend(found)
            shed = [_overloaded(answer) for answer in found]
            assert all(told or answer.status_code == 200 for told, answer in zip(shed, found, strict=True))
            return shed

        async def sheds() -> bool:
            return any(await ask())

        async def serves() -> bool:
            return not any(await ask() + await ask() + await ask())

        assert await serves()
        machine.busy = 1.0
        await until(sheds, timeout_s=30)
        assert (await shop.http.get(f"http://{shop.rig.admin}/ready")).status_code == 200
        machine.busy = 0.0
        await until(serves, timeout_s=30)
        refused = [answer for answer in answers if answer.status_code == 503]
        lines = await until(lambda: _shed(shop.rig, len(refused)), what="a line for each that was shed")

    assert {line["why"] for line in lines} == {"the gateway is short of memory or CPU"}
    assert {(line["service"], line["attempts"]) for line in lines} == {(None, 0)}, "no replica has heard of them"


def _shed(rig: Rig, count: int) -> list[dict[str, Any]]:
    lines = [line for line in rig.log_lines() if line["status"] == 503]
    return lines if len(lines) == count else []


@pytest.mark.parametrize("path", ["/stock", "/orders"])
async def test_with_enough_of_everything_nobody_is_refused(tmp_path: Path, path: str) -> None:
    """Or the tests above would prove nothing."""
    async with _shop(tmp_path) as shop:
        assert [(await shop.get(path)).status_code for _ in range(20)] == [200] * 20
