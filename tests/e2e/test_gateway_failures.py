"""What the manifest says of failures has its effect in the real Envoy: each setting beside what holds without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import structs

from atoll.gateway.known import Known
from atoll.system.failures import USUAL, FailureDetection, HealthCheck, OutlierEjection, Retries
from tests.support.gateway import Rig, contract, gateway, known, load, replica, upstreams
from tests.support.moody import Mood, Moody, moody
from tests.support.waiting import until

PUBLIC: dict[str, Any] = {"security": []}
ORDERS = contract("orders", {"/orders": {"get": PUBLIC, "post": PUBLIC}})
STOCK = contract("stock", {"/stock": {"get": PUBLIC}})
_MANY = httpx.Limits(max_connections=None)


def _with(what: Known, failures: FailureDetection, service: str = "orders") -> Known:
    services = what.system.services
    entry = structs.replace(services[service], failures=failures)
    return replace(what, system=structs.replace(what.system, services={**services, service: entry}))


@dataclass
class Shop:
    """A gateway with replicas that do what they are told, and count what they got."""

    rig: Rig
    replicas: tuple[Moody, ...]
    http: httpx.AsyncClient

    async def statuses(self, count: int, method: str = "GET") -> list[int]:
        return [(await self.http.request(method, f"{self.rig.url}/orders")).status_code for _ in range(count)]


@asynccontextmanager
async def shop(folder: Path, failures: FailureDetection, *, replicas: int = 1) -> AsyncIterator[Shop]:
    async with moody() as one, moody() as two, httpx.AsyncClient(timeout=30, limits=_MANY) as http:
        moodies = (one, two)[:replicas]
        known_ = known(ORDERS, replicas=tuple(replica(ORDERS, f"orders-{at}", up.address) for at, up in enumerate(moodies)))
        async with gateway(folder, _with(known_, failures)) as rig:
            await until(lambda: _is(rig, "membership_healthy", replicas))
            yield Shop(rig, moodies, http)


async def _stat(rig: Rig, name: str, cluster: str = "orders") -> int:
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"http://{rig.admin}/stats?filter=^cluster.{cluster}.{name}$")).text
    return int(text.partition(":")[2] or 0)


async def _is(rig: Rig, name: str, value: int) -> bool:
    return await _stat(rig, name) == value


async def _fails_often(world: Shop, faulty: Moody, mood: Mood) -> None:
    """Until it was asked a dozen times."""
    faulty.moods = [mood] * 500
    async with asyncio.timeout(30):
        while len(faulty.seen) < 12:
            await world.statuses(1)


async def test_a_replica_whose_answers_fail_is_ejected_where_the_manifest_says_after_how_many(tmp_path: Path) -> None:
    failures = FailureDetection(outlier_ejection=OutlierEjection(consecutive_5xx=3, ejection_s=600))
    async with shop(tmp_path, failures, replicas=2) as world:
        faulty, good = world.replicas
        faulty.moods = ["refuse"] * 500
        async with asyncio.timeout(30):
            while len(faulty.seen) < 3:
                await world.statuses(1)
        await until(lambda: _is(world.rig, "outlier_detection.ejections_active", 1))

        assert await world.statuses(50) == [200] * 50
        assert len(faulty.seen) == 3, "not one more than it was given to prove itself"
        assert len(good.seen) >= 50


async def test_without_that_no_answer_ejects(tmp_path: Path) -> None:
    async with shop(tmp_path, USUAL, replicas=2) as world:
        faulty, _ = world.replicas
        await _fails_often(world, faulty, "refuse")

        assert await _is(world.rig, "outlier_detection.ejections_enforced_total", 0)


ONCE = Retries(count=0)
SELDOM = HealthCheck(interval_s=300)  # so that no check tells what requests have to find out
TWICE = OutlierEjection(consecutive_failures=2, ejection_s=600)


async def test_a_replica_that_fails_to_be_connected_to_twice_is_tried_no_more(tmp_path: Path) -> None:
    """Nothing is sent again, so every request that it spoilt is one that failed: two, as the manifest says."""
    failures = FailureDetection(health_check=SELDOM, outlier_ejection=TWICE, retries=ONCE)
    async with shop(tmp_path, failures, replicas=2) as world:
        gone, good = world.replicas
        await gone.stop()
        statuses: list[int] = []
        async with asyncio.timeout(30):
            while statuses.count(503) < 2:
                statuses += await world.statuses(1)
        await until(lambda: _ejected(world.rig))
        statuses += await world.statuses(50)

        assert (statuses.count(503), set(statuses)) == (2, {200, 503})
        assert await _stat(world.rig, "upstream_cx_connect_fail") == 2
        assert await _stat(world.rig, "upstream_rq_retry") == 0
        assert len(good.seen) == statuses.count(200)


async def test_a_replica_that_cuts_two_requests_is_tried_no_more(tmp_path: Path) -> None:
    """In a row means: without a connection that was made in between."""
    failures = FailureDetection(health_check=SELDOM, outlier_ejection=TWICE, retries=ONCE)
    async with shop(tmp_path, failures, replicas=2) as world:
        faulty, good = world.replicas
        faulty.moods = ["hang"] * 2
        asking: list[asyncio.Task[httpx.Response]] = []
        async with asyncio.timeout(30):
            while len(faulty.seen) < 2:
                asking.append(asyncio.create_task(world.http.get(f"{world.rig.url}/orders")))
                await until(lambda: len(faulty.seen) + len(good.seen) == len(asking))
        faulty.cut_all()
        statuses = [(await task).status_code for task in asking]
        await until(lambda: _ejected(world.rig))
        statuses += await world.statuses(50)

        assert (statuses.count(503), set(statuses), len(faulty.seen)) == (2, {200, 503}, 2)
        assert await _stat(world.rig, "upstream_rq_retry") == 0


async def _ejected(rig: Rig) -> bool:
    """One replica, for failures that no answer told of."""
    names = ("ejections_active", "ejections_enforced_consecutive_local_origin_failure")
    return [await _stat(rig, f"outlier_detection.{name}") for name in names] == [1, 1]


async def test_without_that_it_is_tried_again_and_again(tmp_path: Path) -> None:
    failures = FailureDetection(health_check=SELDOM, outlier_ejection=OutlierEjection(consecutive_failures=0), retries=ONCE)
    async with shop(tmp_path, failures, replicas=2) as world:
        faulty, _ = world.replicas
        await _fails_often(world, faulty, "cut")

        assert await _is(world.rig, "outlier_detection.ejections_enforced_total", 0)


@pytest.mark.parametrize("percent", [10, 50])
async def test_of_the_requests_in_flight_no_larger_share_is_sent_again_than_the_manifest_says(
    tmp_path: Path, percent: int
) -> None:
    """A hundred are cut at one moment, and what is sent again hangs: so retries that count are all there are at a time.

    Each that fails is in flight no more, which makes the share smaller: x = percent of (100 - x).
    """
    retries = Retries(count=1, budget_percent=percent, min_concurrent=1)
    async with shop(tmp_path, FailureDetection(health_check=SELDOM, retries=retries)) as world:
        (one,) = world.replicas
        one.moods = ["hang"] * 500
        asking = [asyncio.create_task(world.http.get(f"{world.rig.url}/orders")) for _ in range(100)]
        await until(lambda: len(one.seen) == 100)
        one.cut_all()
        sent_again, refused = await until(lambda: _budgeted(world.rig, 100), 20)

        assert 100 * percent / (100 + percent) - 2 <= sent_again <= percent
        await until(lambda: len(one.seen) == 100 + sent_again)
        await until(lambda: sum(task.done() for task in asking) == refused)
        assert {task.result().status_code for task in asking if task.done()} == {503}
        one.cut_all()
        await asyncio.gather(*asking)


async def _budgeted(rig: Rig, count: int) -> tuple[int, ...]:
    """How many were sent again and how many were not for want of budget, once that is decided for so many."""
    found = await _stat(rig, "upstream_rq_retry"), await _stat(rig, "upstream_rq_retry_overflow")
    return found if sum(found) == count else ()


async def test_with_no_retries_a_request_is_sent_once(tmp_path: Path) -> None:
    async with shop(tmp_path, FailureDetection(retries=Retries(count=0))) as world:
        (one,) = world.replicas
        one.expect("cut")

        assert await world.statuses(2) == [503, 200]
        assert len(one.seen) == 2


@pytest.mark.parametrize(("count", "statuses"), [(2, [503, 200]), (3, [200])])
async def test_a_request_is_sent_again_as_often_as_the_manifest_says(tmp_path: Path, count: int, statuses: list[int]) -> None:
    async with shop(tmp_path, FailureDetection(retries=Retries(count=count))) as world:
        (one,) = world.replicas
        one.expect("cut", "cut", "cut")

        assert await world.statuses(len(statuses)) == statuses


async def test_every_try_of_a_service_has_the_time_that_the_manifest_says(tmp_path: Path) -> None:
    """Of what may be repeated: a POST is given up by nobody."""
    async with shop(tmp_path, FailureDetection(retries=Retries(try_timeout_s=0.3))) as world:
        (one,) = world.replicas
        one.expect("hang", "answer")

        assert await world.statuses(1) == [200]
        assert len(one.seen) == 2
        line = (await world.http.post(f"{world.rig.url}/orders")).headers["x-request-id"]
        assert (await world.rig.logged(line))["attempts"] == 1


async def test_replicas_are_asked_how_they_are_as_often_as_the_manifest_says(tmp_path: Path) -> None:
    async with upstreams(tmp_path, "orders-1", "stock-1") as (one, two):
        both = (replica(ORDERS, "orders-1", one.address), replica(STOCK, "stock-1", two.address))
        often, seldom = (FailureDetection(health_check=HealthCheck(interval_s=interval_s)) for interval_s in (0.1, 300))
        what = _with(_with(known(ORDERS, STOCK, replicas=both), often), seldom, "stock")
        async with gateway(tmp_path / "gateway", what) as rig:

            async def asked() -> bool:
                return await _stat(rig, "health_check.attempt") > 20

            await until(asked, 20)
            assert await _stat(rig, "health_check.attempt", "stock") <= 2


async def test_a_replica_is_healthy_again_after_as_many_good_checks_as_the_manifest_says(tmp_path: Path) -> None:
    """Its first check of all counts alone: nobody waits for a replica that has just started."""
    async with upstreams(tmp_path, "orders-1") as (one,), httpx.AsyncClient() as http:
        check = HealthCheck(interval_s=0.1, healthy_threshold=20)
        what = _with(known(ORDERS, replicas=(replica(ORDERS, "orders-1", one.address),)), FailureDetection(health_check=check))
        async with gateway(tmp_path / "gateway", what) as rig:
            await until(lambda: _is(rig, "membership_healthy", 1))
            await http.post(f"http://{one.address}/control/ready?value=0")
            await until(lambda: _is(rig, "membership_healthy", 0))
            failed = await _stat(rig, "health_check.failure")
            await http.post(f"http://{one.address}/control/ready?value=1")
            before = await _stat(rig, "health_check.success")
            await until(lambda: _is(rig, "membership_healthy", 1), 20)

            assert failed > 0
            assert await _stat(rig, "health_check.success") - before >= 18


@pytest.mark.parametrize(("panic_threshold_percent", "status"), [(0, 503), (50, 200)])
async def test_below_the_panic_threshold_whoever_is_there_is_tried(
    tmp_path: Path, panic_threshold_percent: int, status: int
) -> None:
    async with upstreams(tmp_path, "orders-1") as (one,), httpx.AsyncClient() as http:
        failures = FailureDetection(panic_threshold_percent=panic_threshold_percent)
        what = _with(known(ORDERS, replicas=(replica(ORDERS, "orders-1", one.address),)), failures)
        async with gateway(tmp_path / "gateway", what) as rig:
            await http.post(f"http://{one.address}/control/ready?value=0")
            await until(lambda: _is(rig, "membership_healthy", 0), 15)

            assert (await http.get(f"{rig.url}/orders")).status_code == status


@pytest.mark.parametrize(
    ("panic_threshold_percent", "not_ready", "asked"),
    [
        (50, ("orders-1",), {"orders-2", "orders-3"}),
        (50, ("orders-1", "orders-2"), {"orders-1", "orders-2", "orders-3"}),
        (0, ("orders-1", "orders-2"), {"orders-3"}),
    ],
)
async def test_of_three_replicas_the_unhealthy_ones_are_tried_when_fewer_are_left_than_the_threshold_says(
    tmp_path: Path, panic_threshold_percent: int, not_ready: tuple[str, ...], asked: set[str]
) -> None:
    """Of a hundred requests each that is asked gets some: that it gets none by chance happens once in 10**17 times."""
    async with upstreams(tmp_path, "orders-1", "orders-2", "orders-3") as three, httpx.AsyncClient() as http:
        what = known(ORDERS, replicas=tuple(replica(ORDERS, up.name, up.address) for up in three))
        failures = FailureDetection(panic_threshold_percent=panic_threshold_percent)
        async with gateway(tmp_path / "gateway", _with(what, failures)) as rig:
            for up in three:
                if up.name in not_ready:
                    await http.post(f"http://{up.address}/control/ready?value=0")
            await until(lambda: _is(rig, "membership_healthy", 3 - len(not_ready)), 15)

            async def counts() -> bool:
                """A moment later, in Envoy's threads."""
                return await _asked(http, rig, 100) == asked

            await until(counts)


async def test_replicas_that_fail_together_are_all_left_alone_at_once(tmp_path: Path) -> None:
    """As soon as Envoy counts them as unhealthy, but for what is on its way in its threads: not a second later."""
    async with upstreams(tmp_path, "orders-1", "orders-2", "orders-3") as three, httpx.AsyncClient() as http:
        what = known(ORDERS, replicas=tuple(replica(ORDERS, up.name, up.address) for up in three))
        async with gateway(
            tmp_path / "gateway", _with(what, FailureDetection(health_check=HealthCheck(interval_s=0.2)))
        ) as rig:
            await until(lambda: _is(rig, "membership_healthy", 3))
            await asyncio.gather(*(http.post(f"http://{up.address}/control/ready?value=0") for up in three[:2]))
            await until(lambda: _is(rig, "membership_healthy", 1))

            answers = [(await http.get(f"{rig.url}/orders")).json()["replica"] for _ in range(100)]
            assert answers.count("orders-3") > 90, answers


async def _asked(http: httpx.AsyncClient, rig: Rig, count: int) -> set[str]:
    """The replicas that answer so many requests."""
    return {(await http.get(f"{rig.url}/orders")).raise_for_status().json()["replica"] for _ in range(count)}


async def test_a_service_gets_no_more_connections_than_the_manifest_says(tmp_path: Path) -> None:
    """A worker thread that has none may open one, so it is two here; whoever finds none free waits for one."""
    async with upstreams(tmp_path, "orders-1") as (one,), httpx.AsyncClient(timeout=30, limits=_MANY) as http:
        what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", one.address),))
        async with gateway(tmp_path / "gateway", _with(what, FailureDetection(max_connections=1))) as rig:
            answers = await asyncio.gather(*(http.get(f"{rig.url}/orders?delay_s=0.05") for _ in range(20)))

            assert {answer.status_code for answer in answers} == {200}
            assert await _stat(rig, "upstream_cx_total") <= 2


async def test_other_settings_under_load_fail_no_request(tmp_path: Path) -> None:
    """Envoy makes the cluster anew, and goes on with the old one until the new one's replicas have been checked."""
    async with upstreams(tmp_path, "orders-1", "orders-2") as both:
        what = known(ORDERS, replicas=tuple(replica(ORDERS, up.name, up.address) for up in both))
        changed = (
            FailureDetection(health_check=HealthCheck(interval_s=5), slow_start_s=0),
            FailureDetection(retries=Retries(count=3), outlier_ejection=OutlierEjection(consecutive_5xx=5), max_connections=64),
            USUAL,
        )
        async with gateway(tmp_path / "gateway", what) as rig, load(lambda http: http.get(f"{rig.url}/orders")) as traffic:
            for failures in changed:
                await traffic.reach(100)
                await rig.apply(_with(rig.known, failures))
            await traffic.reach(100)

    assert traffic.failures == []
