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

from atoll.bus.jetstream import JetStreamBus
from atoll.provision.nats import GATEWAY, administers
from tests.support.engines import ProvisionedBus, provisioned_bus
from tests.support.gateway import contract, replica, upstreams
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


async def test_what_provision_announces_is_routed_also_after_the_controller_has_died(
    tmp_path: Path,
) -> None:
    async with provisioned_bus(tmp_path / "bus", {"orders": ORDERS}) as bus, upstreams(tmp_path, "orders-1") as (upstream,):
        assert "contracts announced" in await asyncio.to_thread(provision, tmp_path, bus)
        assert await asyncio.to_thread(provision, tmp_path, bus) == "nothing to do\n"
        async with gateway(tmp_path / "gateway", bus.url(GATEWAY)) as (process, port, monitored), httpx.AsyncClient() as http:
            entry = replica(ORDERS, "orders-1", upstream.address, time.time())
            orders = JetStreamBus(bus.url("orders"), name="orders-1")
            await orders.start()
            await orders.wait_connected(10)
            body = {field: getattr(entry, field) for field in entry.__struct_fields__}
            await orders.request(f"$KV.registry.{entry.key}", json.dumps(body).encode())
            await orders.close()

            async def answered() -> bool:
                try:
                    return (await http.get(f"http://127.0.0.1:{port}/orders")).status_code == 200
                except httpx.HTTPError:
                    return False

            await until(answered, 60)
            assert (await http.get(f"http://127.0.0.1:{monitored}/ready")).status_code == 200
            assert "envoy_server_live" in (await http.get(f"http://127.0.0.1:{monitored}/metrics", timeout=20)).text
            before = children(process.pid)
            os.kill(before["python"], signal.SIGKILL)
            assert await answered()
            await until(lambda: children(process.pid).get("python", before["python"]) != before["python"], 20)
            assert children(process.pid)["envoy"] == before["envoy"]
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 30) == 0
