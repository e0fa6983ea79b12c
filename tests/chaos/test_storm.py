"""Promise 5: no change of routes, keys, certificates or replicas, and no restart of one service, fails a request."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import httpx

from tests.chaos.storm import SERVICES, Kill, Plan, storm
from tests.support.gateway import contract, gateway, known, replica, upstreams
from tests.support.load import Answer, Ask
from tests.support.waiting import until


def test_no_change_of_routes_keys_certificates_or_replicas_fails_a_request(tmp_path: Path) -> None:
    """The long one: make storm."""
    findings = storm(tmp_path / "storm", Plan(seconds=10, routes=6, keys=3, certificates=3, seed=20261127))

    assert findings.failed == []
    assert findings.reads > 1000
    assert findings.writes > 50
    assert findings.changes == {"route": 6, "key": 3, "certificate": 3, "replicas": 1, "controller": 1} | {
        f"restart {name}": 1 for name in SERVICES
    }


async def test_what_is_forgiven_is_a_write_that_the_killed_replica_had_and_nothing_else(tmp_path: Path) -> None:
    """By what the real gateway logs of it."""
    orders = contract("orders", {"/orders": {"post": {"security": []}, "get": {"security": []}}})
    async with upstreams(tmp_path, "orders-1") as (one,), httpx.AsyncClient(timeout=20) as http:
        what = known(orders, replicas=(replica(orders, "orders-1", one.address),))
        async with gateway(tmp_path / "gateway", what) as rig:
            began_s = time.monotonic()
            asking = asyncio.create_task(http.post(f"{rig.url}/orders?delay_s=15"))
            await until(lambda: _in_flight(rig.admin.port))
            killed_s = time.monotonic()
            one.process.kill()
            found = await asking
            line = await rig.logged(found.headers["x-request-id"])
            nobody = await http.post(f"{rig.url}/orders")
            refused = await rig.logged(nobody.headers["x-request-id"])

    cut = Answer(Ask("POST", "/orders"), found.status_code, found.text, began_s, time.monotonic())
    kill = Kill(one.address, killed_s, time.monotonic())
    assert (found.status_code, kill.cut(cut, line)) == (503, True), line
    assert not kill.cut(cut, {**line, "replica": "127.0.0.1:9"})
    assert not kill.cut(replace(cut, ended_s=killed_s - 0.001), line)
    assert not kill.cut(replace(cut, began_s=kill.replaced_s + 0.001), line)
    assert not kill.cut(cut, {}), "no line, no excuse"
    assert (nobody.status_code, kill.cut(cut, refused)) == (503, False), refused


async def _in_flight(admin: int) -> bool:
    async with httpx.AsyncClient() as http:
        stats = await http.get(f"http://127.0.0.1:{admin}/stats?filter=^cluster.orders.upstream_rq_active$")
    return stats.text.strip().endswith(": 1")
