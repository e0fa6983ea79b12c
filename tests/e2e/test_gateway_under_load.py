"""Changes and deaths while requests are on their way: what fails, and how fast a change counts."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import Rig, Upstream, contract, gateway, known, load, replica, upstreams
from tests.support.ports import free_port
from tests.support.tokens import Mint
from tests.support.waiting import until

ORDERS = contract("orders", {"/orders/{id}": {"get": {"security": []}, "post": {"security": []}}})
NEWER = contract(
    "orders",
    {"/orders/{id}": {"get": {"security": []}, "post": {"security": []}}, "/orders/new": {"get": {"security": []}}},
)
LARGE = contract(
    "orders", {"/orders/{id}": {"get": {"security": []}, "post": {"security": [], "x-atoll-body-limit-bytes": 3_000_000}}}
)
SECURED = contract("secured", {"/secured": {"get": {"security": [{"token": []}]}}})


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[list[Upstream]]:
    async with upstreams(tmp_path, "orders-1", "orders-2") as found:
        yield found


def _get(rig: Rig, path: str = "/orders/1") -> Callable[[httpx.AsyncClient], Coroutine[Any, Any, httpx.Response]]:
    return lambda http: http.get(rig.url + path)


def _mixed(rig: Rig) -> Callable[[httpx.AsyncClient], Coroutine[Any, Any, httpx.Response]]:
    """GET and POST in turns."""
    methods = itertools.cycle(("GET", "POST"))
    return lambda http: http.request(next(methods), rig.url + "/orders/1?delay_s=0.002")


async def test_changes_of_replicas_and_routes_fail_no_request(tmp_path: Path, two: list[Upstream]) -> None:
    first, second = (replica(ORDERS, one.name, one.address) for one in two)
    upgraded = replica(NEWER, "orders-2", two[1].address)
    start = known(ORDERS, NEWER, replicas=(first, second))
    keys = list(start.replicas)
    changes = [{keys[0]: first}, {keys[1]: second}, {keys[0]: first, keys[1]: upgraded}, {keys[0]: first, keys[1]: second}]
    async with gateway(tmp_path / "gateway", start) as rig, load(_mixed(rig)) as traffic:
        for replicas in changes * 3:
            await traffic.reach(30)
            await rig.apply(replace(rig.known, replicas=replicas))
        await traffic.reach(100)

    assert traffic.failures == []


async def test_what_was_applied_counts(tmp_path: Path, two: list[Upstream]) -> None:
    """How long that takes: `python -m benchmarks.gateway_scale 3 5`."""
    old, new = replica(ORDERS, "orders-1", two[0].address), replica(NEWER, "orders-1", two[0].address)
    async with gateway(tmp_path / "gateway", known(ORDERS, replicas=(old,))) as rig, httpx.AsyncClient() as http:
        for contracts, entry, status in [((ORDERS, NEWER), new, 200), ((ORDERS,), old, 404)] * 5:
            await rig.apply(known(*contracts, replicas=(entry,)))
            await _until_status(http, f"{rig.url}/orders/new/x" if status == 404 else f"{rig.url}/orders/new", status)


async def _until_status(http: httpx.AsyncClient, url: str, status: int) -> None:
    async def seen() -> bool:
        return (await http.get(url)).status_code == status

    await until(seen)


async def test_routes_go_to_replicas_whose_contract_offers_the_operation(tmp_path: Path, two: list[Upstream]) -> None:
    old, new = replica(ORDERS, "orders-1", two[0].address), replica(NEWER, "orders-2", two[1].address)
    async with gateway(tmp_path / "gateway", known(ORDERS, NEWER, replicas=(old, new))) as rig, httpx.AsyncClient() as http:
        both = {(await http.get(f"{rig.url}/orders/1")).json()["replica"] for _ in range(40)}
        new_only = {(await http.get(f"{rig.url}/orders/new")).json()["replica"] for _ in range(10)}

    assert both == {"orders-1", "orders-2"}
    assert new_only == {"orders-2"}


async def test_a_change_of_the_listener_fails_no_request(tmp_path: Path, two: list[Upstream]) -> None:
    """A larger body limit is the one change in a running system that the listener sees."""
    before, after = (tuple(replica(of, one.name, one.address) for one in two) for of in (ORDERS, LARGE))
    async with gateway(tmp_path / "gateway", known(ORDERS, replicas=before)) as rig, load(_mixed(rig)) as traffic:
        await traffic.reach(30)
        await rig.apply(known(ORDERS, LARGE, replicas=after))
        await traffic.reach(100)
        async with httpx.AsyncClient(timeout=20) as http:
            answer = await http.post(f"{rig.url}/orders/1", content=b"x" * 2_000_000)

    assert answer.status_code == 200
    assert traffic.failures == []


async def test_kill_9_of_one_of_two_replicas_fails_no_get(tmp_path: Path, two: list[Upstream]) -> None:
    replicas = tuple(replica(ORDERS, one.name, one.address) for one in two)
    async with gateway(tmp_path / "gateway", known(ORDERS, replicas=replicas)) as rig, load(_get(rig), width=16) as traffic:
        await traffic.reach(200)
        two[0].process.kill()
        await traffic.reach(600)

    assert traffic.failures == []


class _Blinking:
    """A replica in this process, so that it is gone and back exactly when the test says so."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()


async def test_a_single_replica_may_restart_between_requests(tmp_path: Path) -> None:
    """Even a POST waits for it: a request that reached nobody may be sent again."""
    only = _Blinking(free_port())
    await only.start()
    what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", f"127.0.0.1:{only.port}"),))
    async with gateway(tmp_path / "gateway", what) as rig, httpx.AsyncClient(timeout=20) as http:
        assert (await http.post(f"{rig.url}/orders/1")).status_code == 200
        await only.stop()
        request = asyncio.create_task(http.post(f"{rig.url}/orders/1"))
        await until(lambda: _failed_connects(http, rig))
        await only.start()

        assert (await request).status_code == 200
        await only.stop()


async def _failed_connects(http: httpx.AsyncClient, rig: Rig) -> int:
    stats = (await http.get(f"http://{rig.admin}/stats?filter=^cluster.orders.upstream_cx_connect_fail$")).text
    return int(stats.partition(":")[2])


async def test_a_replica_that_is_not_ready_gets_no_requests(tmp_path: Path, two: list[Upstream]) -> None:
    replicas = tuple(replica(ORDERS, one.name, one.address) for one in two)
    async with gateway(tmp_path / "gateway", known(ORDERS, replicas=replicas)) as rig, httpx.AsyncClient() as http:
        await http.post(f"http://{two[0].address}/control/ready?value=0")

        async def only_the_other() -> bool:
            seen = [(await http.get(f"{rig.url}/orders/1")).json()["replica"] for _ in range(10)]
            return set(seen) == {"orders-2"}

        await until(only_the_other, 10)
        await http.post(f"http://{two[0].address}/control/ready?value=1")
        await until(lambda: _answers(http, rig, "orders-1"), 10)


async def _answers(http: httpx.AsyncClient, rig: Rig, name: str) -> bool:
    return bool((await http.get(f"{rig.url}/orders/1")).json()["replica"] == name)


async def test_a_new_key_counts_and_a_withdrawn_one_is_refused_within_a_second(tmp_path: Path) -> None:
    old, new = Mint(), Mint()
    async with upstreams(tmp_path, "secured-1") as (one,):
        what = known(SECURED, replicas=(replica(SECURED, "secured-1", one.address),))
        async with gateway(tmp_path / "gateway", what, old) as rig, httpx.AsyncClient() as http:
            old_token, new_token = old.token(), new.token()
            assert await _statuses(http, rig, old_token, new_token) == [200, 401]
            begun = time.perf_counter()
            await rig.apply(replace(rig.known, keys=new.key_set))
            await until(lambda: _equals(http, rig, [401, 200], old_token, new_token))
            took_s = time.perf_counter() - begun

    sys.stdout.write(f"key rotation counted after {took_s * 1000:.0f} ms\n")
    assert took_s < 1


async def _equals(http: httpx.AsyncClient, rig: Rig, expected: list[int], *tokens: str) -> bool:
    return await _statuses(http, rig, *tokens) == expected


async def _statuses(http: httpx.AsyncClient, rig: Rig, *tokens: str) -> list[int]:
    """On one connection that stays open: a change must not need a new one."""
    headers = ({"authorization": f"Bearer {token}"} for token in tokens)
    return [(await http.get(f"{rig.url}/secured", headers=one)).status_code for one in headers]


async def test_a_file_that_envoy_rejects_changes_nothing_and_is_replaced(tmp_path: Path, two: list[Upstream]) -> None:
    from atoll.errors import Bug
    from atoll.gateway.admin import Admin
    from atoll.gateway.apply import Applier
    from atoll.gateway.translate import translate
    from atoll.gateway.xds.resources import render

    what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", two[0].address),))
    async with gateway(tmp_path / "gateway", what) as rig, load(_get(rig)) as traffic:
        good = Path(rig.folders.file("rds")).read_bytes()
        resources = dict(render(translate(what, rig.listener), rig.folders))
        broken = {**resources["rds"][0], "virtual_hosts": [{"name": "x", "domains": []}]}
        with pytest.raises(Bug, match="Envoy refuses this change"):
            await Applier(rig.folders, Admin(rig.admin)).apply({**resources, "rds": [broken]})
        await traffic.reach(50)

        assert Path(rig.folders.file("rds")).read_bytes() == good

    assert traffic.failures == []


async def test_a_hung_envoy_admin_is_an_outage_and_the_files_are_there(tmp_path: Path, two: list[Upstream]) -> None:
    from atoll.errors import EngineOutage

    first, second = (replica(ORDERS, one.name, one.address) for one in two)
    async with gateway(tmp_path / "gateway", known(ORDERS, replicas=(first,))) as rig:
        os.kill(rig.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(EngineOutage):
                await rig.apply(known(ORDERS, replicas=(second,)))
        finally:
            os.kill(rig.process.pid, signal.SIGCONT)
        async with httpx.AsyncClient() as http:
            await until(lambda: _answers(http, rig, "orders-2"))
