"""`atoll provision` and `atoll gateway run`, on a real bus and with a real Envoy, as a container host starts them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from atoll.bus.jetstream import JetStreamBus
from atoll.provision.nats import GATEWAY, administers
from tests.support.engines import ProvisionedBus, provisioned_bus
from tests.support.gateway import Upstream, contract, replica, upstreams
from tests.support.ports import free_port
from tests.support.waiting import until

ORDERS = contract("orders", {"/orders": {"get": {"security": []}}})
SYSTEM = {
    "name": "shop",
    "public_url": "http://localhost:8080",
    "issuer": "http://localhost:8080/auth",
    "audience": "shop",
    "services": {"orders": {"kind": "service", "prefix": "/orders"}},
}


def atoll(*arguments: str, told: Mapping[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "atoll", *arguments]
    return subprocess.Popen(command, env={**os.environ, **told}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def provision(folder: Path, bus: ProvisionedBus) -> str:
    """What it said."""
    (folder / "contracts").mkdir(exist_ok=True)
    (folder / "contracts" / "orders.json").write_text(json.dumps(ORDERS.document))
    (folder / "system.json").write_text(json.dumps(SYSTEM))
    (folder / "users").write_text(
        json.dumps({user: one for user, one in bus.administrator.passwords.items() if administers(user)})
    )
    told = {
        "ATOLL_PROVISION_DIR": str(folder),
        "ATOLL_BUS_ADDRESS": f"127.0.0.1:{bus.server.port}",
        "ATOLL_BUS_USERS_FILE": str(folder / "users"),
    }
    process = atoll("provision", told=told)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said


@asynccontextmanager
async def gateway(folder: Path, url: str) -> AsyncIterator[tuple[subprocess.Popen[str], int, int]]:
    port, admin, monitored = free_port(), free_port(), free_port()
    told = {
        "ATOLL_BUS_URL": url,
        "ATOLL_GATEWAY_DIR": str(folder),
        "ATOLL_GATEWAY_PORT": str(port),
        "ATOLL_ENVOY_ADMIN": f"127.0.0.1:{admin}",
        "ATOLL_GATEWAY_METRICS": f"127.0.0.1:{monitored}",
    }
    process = atoll("gateway", "run", told=told)
    try:
        yield process, port, monitored
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.communicate, timeout=30)


def children(pid: int) -> dict[str, int]:
    """Pids by program: Envoy's, and the controller's Python."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    names = {int(one): Path(f"/proc/{one}/comm").read_text().strip() for one in pids}
    return {"python" if name.startswith("python") else name: one for one, name in names.items()}


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[subprocess.Popen[str], str, Upstream]]:
    """A gateway that answers for one service, its address, and its replica."""
    async with provisioned_bus(folder / "bus", {"orders": ORDERS}) as bus, upstreams(folder, "orders-1") as (upstream,):
        await asyncio.to_thread(provision, folder, bus)
        await announce(bus, upstream)
        async with gateway(folder / "gateway", bus.url(GATEWAY)) as (process, port, _), httpx.AsyncClient() as http:
            await until(lambda: answered(http, port), 60)
            yield process, f"http://127.0.0.1:{port}", upstream


async def announce(bus: ProvisionedBus, upstream: Upstream) -> None:
    entry = replica(ORDERS, "orders-1", upstream.address, time.time())
    orders = JetStreamBus(bus.url("orders"), name="orders-1")
    await orders.start()
    await orders.wait_connected(10)
    body = {field: getattr(entry, field) for field in entry.__struct_fields__}
    await orders.request(f"$KV.registry.{entry.key}", json.dumps(body).encode())
    await orders.close()


async def answered(http: httpx.AsyncClient, port: int) -> bool:
    return await answers(http, f"http://127.0.0.1:{port}/orders", 200)


async def answers(http: httpx.AsyncClient, url: str, status: int) -> bool:
    try:
        return (await http.get(url)).status_code == status
    except httpx.HTTPError:
        return False


async def refused(url: str) -> bool:
    async with httpx.AsyncClient() as http:
        try:
            await http.get(url)
        except httpx.ConnectError:
            return True
    return False


async def test_what_is_in_flight_at_the_end_is_answered_whole_and_nobody_new_comes(tmp_path: Path) -> None:
    """The service answers when it is told to, which is when the gateway takes no connection any more."""
    async with (
        serving(tmp_path) as (process, url, upstream),
        httpx.AsyncClient(timeout=30) as waiting,
        httpx.AsyncClient() as idle,
        httpx.AsyncClient() as asking,
    ):
        for one in (idle, asking):
            assert "connection" not in (await one.get(f"{url}/orders")).headers
        async with waiting.stream("GET", f"{url}/orders?stream=2&until=acknowledged") as slow:
            pieces = slow.aiter_raw()
            assert await anext(pieces) == b"data: 0\n\n"
            process.send_signal(signal.SIGTERM)
            await until(lambda: refused(f"{url}/orders"))
            last = await asking.get(f"{url}/orders")
            for _ in range(2):
                await asking_directly(upstream)
            rest = [piece async for piece in pieces]

        assert (last.status_code, last.headers["connection"]) == (200, "close")
        assert (slow.status_code, slow.headers["content-type"], rest) == (200, "text/event-stream", [b"data: 1\n\n"])
        assert await asyncio.to_thread(process.wait, 30) == 0
        with pytest.raises(httpx.ConnectError):  # its connection ended without an answer to nobody's question
            await idle.get(f"{url}/orders")


async def asking_directly(upstream: Upstream) -> None:
    async with httpx.AsyncClient() as http:
        (await http.get(f"http://{upstream.address}/?acknowledge=1")).raise_for_status()


async def test_what_provision_announces_is_routed_also_after_the_controller_has_died(
    tmp_path: Path,
) -> None:
    async with provisioned_bus(tmp_path / "bus", {"orders": ORDERS}) as bus, upstreams(tmp_path, "orders-1") as (upstream,):
        assert "contracts announced" in await asyncio.to_thread(provision, tmp_path, bus)
        assert await asyncio.to_thread(provision, tmp_path, bus) == "nothing to do\n"
        async with gateway(tmp_path / "gateway", bus.url(GATEWAY)) as (process, port, monitored), httpx.AsyncClient() as http:
            await announce(bus, upstream)
            await until(lambda: answered(http, port), 60)
            await until(lambda: answers(http, f"http://127.0.0.1:{monitored}/ready", 200), 60)
            assert "envoy_server_live" in (await http.get(f"http://127.0.0.1:{monitored}/metrics", timeout=20)).text
            before = children(process.pid)
            os.kill(before["python"], signal.SIGKILL)
            assert await answered(http, port)
            await until(lambda: children(process.pid).get("python", before["python"]) != before["python"], 20)
            assert children(process.pid)["envoy"] == before["envoy"]
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 30) == 0


async def test_it_is_not_ready_before_the_bus_has_told_anything(tmp_path: Path) -> None:
    """Whoever has heard nothing knows no path, and a host of containers would send it requests."""
    nobody = f"nats://127.0.0.1:{free_port()}"
    async with gateway(tmp_path, nobody) as (_, port, monitored), httpx.AsyncClient() as http:
        await until(lambda: answers(http, f"http://127.0.0.1:{port}/orders", 404), 60)
        assert await answers(http, f"http://127.0.0.1:{monitored}/ready", 503)


async def test_it_is_ready_when_it_knows_what_the_bus_knows_and_stays_so_when_that_has_gone(tmp_path: Path) -> None:
    async with (
        provisioned_bus(tmp_path / "bus", {"orders": ORDERS}) as bus,
        gateway(tmp_path / "gateway", bus.url(GATEWAY)) as (process, port, monitored),
        httpx.AsyncClient() as http,
    ):
        await asyncio.to_thread(provision, tmp_path, bus)
        await until(lambda: answers(http, f"http://127.0.0.1:{monitored}/ready", 200), 60)
        assert await answers(http, f"http://127.0.0.1:{port}/orders", 503), "the path is known, and nobody is there yet"
        bus.server.kill()
        controller = children(process.pid)["python"]
        os.kill(controller, signal.SIGKILL)
        await until(lambda: children(process.pid).get("python", controller) != controller, 20)
        assert await answers(http, f"http://127.0.0.1:{monitored}/ready", 200)
