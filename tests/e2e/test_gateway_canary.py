"""Two versions of one service side by side: who meets which, and what a change of the shares costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import httpx
import pytest
import pytest_asyncio

from atoll.gateway.ir import Route
from atoll.gateway.known import Known, ServiceEntry
from atoll.gateway.translate import translate
from atoll.gateway.weighing import meets
from tests.support.gateway import Rig, contract, gateway, known, load, replica, system, upstreams
from tests.support.tokens import Mint

pytestmark = pytest.mark.asyncio(loop_scope="module")

MINT = Mint()
SAME = {"/orders": {"get": {"operationId": "own"}, "post": {"operationId": "place", "security": []}}}
ORDERS = contract("orders", {**SAME, "/orders/old": {"get": {"operationId": "old", "security": []}}})
NEXT = contract("orders", {**SAME, "/orders/new": {"get": {"operationId": "new", "security": []}}})
PEOPLE = [f"person-{number}" for number in range(60)]


@dataclass
class Trial:
    rig: Rig
    http: httpx.AsyncClient
    known: Known

    async def share(self, percent: int) -> None:
        entry = ServiceEntry(kind="service", prefix="/orders", digests=(ORDERS.digest, NEXT.digest), canary_percent=percent)
        entries = system(*self.known.contracts.values(), services={"orders": entry})
        await self.rig.apply(replace(self.known, system=entries))

    async def version(self, person: str) -> str:
        """Who answers. A token is a new one each time."""
        headers = {"authorization": f"Bearer {MINT.token(sub=person)}"}
        return str((await self.http.get(f"{self.rig.url}/orders", headers=headers)).json()["replica"])

    async def on_trial(self) -> set[str]:
        return {person for person in PEOPLE if await self.version(person) == "canary"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trial(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Trial]:
    folder = tmp_path_factory.mktemp("canary")
    async with upstreams(folder, "stable", "canary") as (stable, canary):
        replicas = (replica(ORDERS, "orders-1", stable.address), replica(NEXT, "orders-canary-1", canary.address))
        what = known(ORDERS, NEXT, replicas=replicas)
        async with gateway(folder / "gateway", what, MINT) as rig, httpx.AsyncClient(timeout=20) as http:
            yield Trial(rig, http, rig.known)


async def test_without_a_share_nobody_meets_it(trial: Trial) -> None:
    await trial.share(0)

    assert await trial.on_trial() == set()


async def test_a_share_of_the_people_meets_it_always_the_same_ones(trial: Trial) -> None:
    await trial.share(30)

    first = await trial.on_trial()

    assert 5 <= len(first) <= 35  # of 60: about 18
    assert await trial.on_trial() == first


async def test_explained_is_who_meets_it(trial: Trial) -> None:
    """Names of all lengths, because the sum goes over pieces of 32, 8, 4 and 1 bytes."""
    await trial.share(50)
    names = [("x" * length) + str(length) for length in range(70)]
    seen = {name: await trial.version(name) for name in names}
    planned = translate(trial.rig.known, trial.rig.listener)

    (route,) = [one for one in planned.routes if isinstance(one, Route) and one.name == "orders.own"]
    assert route.canary
    assert seen == {name: "canary" if meets(route.canary, name) else "stable" for name in names}
    assert set(seen.values()) == {"canary", "stable"}


async def test_a_larger_share_takes_nobody_away_from_it(trial: Trial) -> None:
    await trial.share(20)
    few = await trial.on_trial()
    await trial.share(60)
    many = await trial.on_trial()
    await trial.share(100)

    assert few < many
    assert await trial.on_trial() == set(PEOPLE)


async def test_who_has_no_token_stays_with_one_version_by_the_address(trial: Trial) -> None:
    await trial.share(50)
    seen = {(await trial.http.post(f"{trial.rig.url}/orders")).json()["replica"] for _ in range(20)}

    assert len(seen) == 1


async def test_what_one_version_alone_offers_is_always_its_own(trial: Trial) -> None:
    await trial.share(50)
    old = {(await trial.http.get(f"{trial.rig.url}/orders/old")).json()["replica"] for _ in range(10)}
    new = {(await trial.http.get(f"{trial.rig.url}/orders/new")).json()["replica"] for _ in range(10)}

    assert (old, new) == ({"stable"}, {"canary"})


async def test_changes_of_the_share_under_load_fail_no_request(trial: Trial) -> None:
    token = {"authorization": f"Bearer {MINT.token()}"}
    async with load(lambda http: http.get(f"{trial.rig.url}/orders", headers=token)) as traffic:
        for percent in (10, 50, 90, 100, 50, 0):
            await traffic.reach(30)
            await trial.share(percent)
        await traffic.reach(50)

    assert traffic.failures == []
