"""What the gateway does when replicas fail: what it sends again and what it never does, and whom it leaves alone."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from msgspec import structs

from atoll.system.failures import FailureDetection
from tests.support.gateway import Rig, Upstream, contract, gateway, known, load, replica, upstreams
from tests.support.moody import Moody, moody
from tests.support.waiting import until

# One loop for all: the replica that runs in it must answer health checks between two tests too.
pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC: dict[str, Any] = {"security": []}
KEYED: dict[str, Any] = {"security": [], "x-atoll-idempotent": True}
REPEATABLE: dict[str, Any] = {"security": [], "x-atoll-repeatable": True}
IMPATIENT: dict[str, Any] = {"security": [], "x-atoll-timeout-s": 1, "x-atoll-try-timeout-s": 0.3}
ORDERS = contract(
    "orders",
    {
        "/orders/plain": dict.fromkeys(("get", "post", "put", "patch", "delete"), PUBLIC),
        "/orders/keyed": dict.fromkeys(("post", "put", "patch", "delete"), KEYED),
        "/orders/same": dict.fromkeys(("post", "put", "delete"), REPEATABLE),
        "/orders/soon": {
            "get": IMPATIENT,
            "post": {**IMPATIENT, "x-atoll-idempotent": True},
            "put": {**IMPATIENT, "x-atoll-repeatable": True},
        },
    },
)
DOWN = contract("down", {"/down": {"get": PUBLIC, "post": PUBLIC}})
KEY = {"idempotency-key": "a-key-of-the-client"}


@dataclass
class Shop:
    """A gateway with one replica that does what it is told."""

    rig: Rig
    orders: Moody
    http: httpx.AsyncClient

    async def ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.http.request(method, self.rig.url + path, headers=headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with moody() as orders, httpx.AsyncClient(timeout=30) as http:
        what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", orders.address),))
        async with gateway(tmp_path_factory.mktemp("retries"), what) as rig:
            yield Shop(rig, orders, http)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_read_that_was_cut_off_is_asked_again(shop: Shop, method: str) -> None:
    shop.orders.expect("cut")

    assert (await shop.ask(method, "/orders/plain")).status_code == 200
    assert len(shop.orders.seen) == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_change_that_may_have_happened_is_not_asked_again(shop: Shop, method: str) -> None:
    """Also not with a key that nobody has promised to look at."""
    shop.orders.expect("cut")

    assert (await shop.ask(method, "/orders/plain", KEY)).status_code == 503
    assert len(shop.orders.seen) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_an_operation_that_is_declared_repeatable_is_asked_again(shop: Shop, method: str) -> None:
    shop.orders.expect("cut")

    assert (await shop.ask(method, "/orders/same")).status_code == 200
    assert len(shop.orders.seen) == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_an_idempotency_key_makes_a_change_repeatable(shop: Shop, method: str) -> None:
    shop.orders.expect("cut")

    assert (await shop.ask(method, "/orders/keyed", KEY)).status_code == 200
    assert [KEY["idempotency-key"] in one for one in shop.orders.seen] == [True, True]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_without_its_key_it_is_asked_once(shop: Shop, method: str) -> None:
    shop.orders.expect("cut")

    assert (await shop.ask(method, "/orders/keyed")).status_code == 503
    assert len(shop.orders.seen) == 1


async def test_a_try_without_an_answer_is_given_up_for_another(shop: Shop) -> None:
    shop.orders.expect("hang", "answer")

    assert (await shop.ask("GET", "/orders/soon")).status_code == 200
    assert len(shop.orders.seen) == 2


@pytest.mark.parametrize(
    ("method", "headers", "status", "tries"), [("PUT", {}, 200, 2), ("POST", KEY, 504, 1), ("POST", {}, 504, 1)]
)
async def test_a_change_is_given_up_for_another_try_only_where_that_needs_no_key(
    shop: Shop, method: str, headers: dict[str, str], status: int, tries: int
) -> None:
    """The second try would find the key in use by the first one, and be answered 409."""
    shop.orders.expect("hang", "answer")

    assert (await shop.ask(method, "/orders/soon", headers)).status_code == status
    assert len(shop.orders.seen) == tries


async def test_an_answer_is_never_asked_for_again(shop: Shop) -> None:
    """Not even a 503: replicas share one database, and asking it more would not help it."""
    shop.orders.expect("refuse")

    assert (await shop.ask("GET", "/orders/plain")).status_code == 503
    assert len(shop.orders.seen) == 1


async def _stat(rig: Rig, name: str) -> int:
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"http://{rig.admin}/stats?filter=^{name}$")).text
    return int(text.partition(":")[2] or 0)


async def test_a_service_that_cannot_be_reached_soon_costs_no_time_and_no_storm(tmp_path: Path) -> None:
    """First its requests are sent again, as many as the budget has room for; then the circuit is open: 503 without a try."""
    async with moody() as down:
        what = known(DOWN, replicas=(replica(DOWN, "down-1", down.address),))
        async with gateway(tmp_path / "gateway", what) as rig, httpx.AsyncClient(timeout=30) as http:
            await until(lambda: _stat(rig, "cluster.down.membership_healthy"))
            statuses = await _at_once(rig, 200, down.stop)
            overflow = await _stat(rig, "cluster.down.upstream_rq_retry_overflow")
            attempts = [line["attempts"] for line in rig.log_lines() if line["path"] == "/down"]
            last = await until(lambda: _unhealthy(rig, http), 30)

    assert statuses == {b"503"}
    assert overflow > 0
    assert max(attempts) > 2
    assert last["attempts"] <= 1


async def _at_once(rig: Rig, count: int, before: Callable[[], Awaitable[None]]) -> set[bytes]:
    """What as many POSTs are answered that come at one moment, on connections that stand, after `before`."""
    port = rig.listener.port
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    await before()
    for _, writer in connections:
        writer.write(b"POST /down HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n" % port)
    heads = [await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30) for reader, _ in connections]
    for _, writer in connections:
        writer.close()
    return {head.split(b" ", 2)[1] for head in heads}


async def _unhealthy(rig: Rig, http: httpx.AsyncClient) -> dict[str, Any]:
    """The log line of a request for which there was nobody to ask."""
    answer = await http.post(f"{rig.url}/down")
    assert answer.status_code == 503
    line = await rig.logged(answer.headers["x-request-id"])
    return line if line["flags"] == "UH" else {}


async def test_a_request_in_flight_on_a_replica_that_leaves_is_finished(tmp_path: Path) -> None:
    """Its endpoint goes while the request is under way, and the connection stays until the answer has come."""
    async with upstreams(tmp_path, "plain-1", "plain-2") as (one, two):
        both = tuple(replica(ORDERS, up.name, up.address) for up in (one, two))
        what = known(ORDERS, replicas=both[:1])
        async with gateway(tmp_path / "gateway", what) as rig, httpx.AsyncClient(timeout=30) as http:
            slow = asyncio.create_task(http.post(f"{rig.url}/orders/plain?delay_s=2"))
            await until(lambda: _stat(rig, "cluster.orders.upstream_rq_active"))
            await rig.apply(known(ORDERS, replicas=both[1:]))
            after = [(await http.get(f"{rig.url}/orders/plain")).json()["replica"] for _ in range(5)]

            assert set(after) == {"plain-2"}
            assert (await slow).json()["replica"] == "plain-1"


async def test_a_replica_that_has_recovered_is_given_its_share_slowly(tmp_path: Path) -> None:
    """By then the other one has its full share: it was new itself, when the gateway started."""
    async with upstreams(tmp_path, "orders-1", "orders-2") as (one, two):
        both = tuple(replica(ORDERS, up.name, up.address) for up in (one, two))
        what = known(ORDERS, replicas=both)
        slow = structs.replace(what.system.services["orders"], failures=FailureDetection(slow_start_s=5))
        what = replace(what, system=structs.replace(what.system, services={"orders": slow}))
        async with gateway(tmp_path / "gateway", what) as rig, httpx.AsyncClient() as http:
            await until(lambda: _healthy(rig, 2))
            new_until = time.monotonic() + 5
            await _ready(http, two, False)
            await until(lambda: _healthy(rig, 1), 15)
            await until(lambda: time.monotonic() > new_until)
            await _ready(http, two, True)
            await until(lambda: _healthy(rig, 2), 15)
            seen = await _asked_for(http, rig, 1.5)

    # At 1.5 of 5 s it has three tenths of what the other has.
    assert seen["orders-1"] > 10, seen
    assert seen["orders-2"] < seen["orders-1"] / 2, seen


async def _asked_for(http: httpx.AsyncClient, rig: Rig, for_s: float) -> Counter[str]:
    """Who has answered, in at most so long a time: a busy machine must not come to the end of the slow start."""
    seen, end = Counter[str](), time.monotonic() + for_s
    while time.monotonic() < end:
        answer = await http.get(f"{rig.url}/orders/plain")
        seen[answer.json()["replica"]] += time.monotonic() < end
    return seen


async def _ready(http: httpx.AsyncClient, upstream: Upstream, value: bool) -> None:
    await http.post(f"http://{upstream.address}/control/ready?value={int(value)}")


async def _healthy(rig: Rig, count: int) -> bool:
    return await _stat(rig, "cluster.orders.membership_healthy") == count


async def test_replicas_change_under_load_and_nobody_is_turned_away_for_want_of_budget(tmp_path: Path) -> None:
    """The budget is for storms: a replica that dies under a full house is none."""
    async with upstreams(tmp_path, "orders-1", "orders-2") as both:
        what = known(ORDERS, replicas=tuple(replica(ORDERS, up.name, up.address) for up in both))
        async with (
            gateway(tmp_path / "gateway", what) as rig,
            load(lambda http: http.get(f"{rig.url}/orders/plain"), width=48) as traffic,
        ):
            await traffic.reach(200)
            both[0].process.kill()
            await traffic.reach(400)
            await rig.apply(replace(rig.known, replicas={"orders.orders-2": what.replicas["orders.orders-2"]}))
            await traffic.reach(100)

    assert traffic.failures == []
