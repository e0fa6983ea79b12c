"""Rate limits with the real Envoy: per client and operation, told in headers, and not forgotten when something changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from atoll.gateway.known import Known
from atoll.tokens import KeySet
from tests.support.gateway import Rig, contract, gateway, known, replica, upstreams
from tests.support.tokens import Mint

MINT = Mint()
READ: list[dict[str, list[str]]] = [{"token": ["orders:read"]}]
ANY: list[dict[str, list[str]]] = [{"token": []}]
NONE: list[dict[str, list[str]]] = []
ORDERS = contract(
    "orders",
    {
        "/orders": {
            "get": {"operationId": "mine", "security": READ, "x-atoll-rate-limit": "3/h"},
            "post": {"operationId": "place", "security": ANY, "x-atoll-rate-limit": "2/h", "x-atoll-idempotent": True},
        },
        "/orders/open": {"get": {"operationId": "open", "security": NONE, "x-atoll-rate-limit": "3/h"}},
        "/orders/free": {"get": {"operationId": "free", "security": ANY}},
        "/orders/quick": {"get": {"operationId": "quick", "security": ANY, "x-atoll-rate-limit": "10000/s"}},
    },
)
NEWER = contract(
    "orders",
    {
        **ORDERS.document["openapi"]["paths"],
        "/orders/new": {"get": {"operationId": "new", "security": ANY, "x-atoll-rate-limit": "7/min"}},
        "/orders/large": {"post": {"operationId": "large", "security": ANY, "x-atoll-body-limit-bytes": 5_000_000}},
    },
)


@dataclass
class Shop:
    """A gateway with a service of two replicas."""

    rig: Rig
    http: httpx.AsyncClient
    addresses: tuple[str, ...]

    async def ask(self, path: str, sub: str = "", method: str = "GET", **headers: str) -> httpx.Response:
        """With a token when there is somebody to ask for."""
        if sub:
            headers["authorization"] = f"Bearer {MINT.token(sub=sub)}"
        return await self.http.request(method, self.rig.url + path, headers=headers)

    async def statuses(self, count: int, path: str, sub: str = "", method: str = "GET", **headers: str) -> list[int]:
        return [(await self.ask(path, sub, method, **headers)).status_code for _ in range(count)]

    def with_replicas(self, what: Known, *addresses: str) -> Known:
        of = list(what.contracts.values())[-1]
        return replace(what, replicas={f"orders.{at}": replica(of, str(at), one) for at, one in enumerate(addresses)})


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    # A connection for each request: one that is kept would still meet the listener of before a change.
    fresh = httpx.Limits(max_keepalive_connections=0)
    async with upstreams(tmp_path, "orders-1", "orders-2") as (one, two), httpx.AsyncClient(timeout=20, limits=fresh) as http:
        what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", one.address),))
        async with gateway(tmp_path / "gateway", what, MINT) as rig:
            yield Shop(rig, http, (one.address, two.address))


async def test_every_subject_has_a_bucket_of_its_own_for_every_operation(shop: Shop) -> None:
    assert await shop.statuses(4, "/orders", "ada") == [200, 200, 200, 429]
    assert await shop.statuses(3, "/orders", "ada", method="POST") == [200, 200, 429]
    assert await shop.statuses(4, "/orders", "grace") == [200, 200, 200, 429]
    assert await shop.statuses(9, "/orders/free", "ada") == [200] * 9


async def test_a_request_that_may_be_repeated_counts_like_any_other(shop: Shop) -> None:
    """With an Idempotency-Key it takes a route of its own, and the bucket of the operation."""
    keyed = {"idempotency-key": "1"}

    assert await shop.statuses(1, "/orders", "ada", "POST", **keyed) == [200]
    assert await shop.statuses(2, "/orders", "ada", "POST") == [200, 429]
    assert await shop.statuses(1, "/orders", "ada", "POST", **keyed) == [429]


async def test_without_a_token_the_address_counts_and_nobody_can_say_another_one(shop: Shop) -> None:
    assert await shop.statuses(3, "/orders/open") == [200, 200, 200]

    spoofed = {"x-forwarded-for": "10.1.1.1", "x-real-ip": "10.1.1.2", "forwarded": "for=10.1.1.3"}
    assert await shop.statuses(1, "/orders/open", **spoofed) == [429]
    # A token changes nothing where none is asked for: anybody could send a different one each time.
    assert await shop.statuses(1, "/orders/open", "ada") == [429]


async def test_the_answer_tells_how_much_is_left(shop: Shop) -> None:
    answers = [await shop.ask("/orders", "ada") for _ in range(4)]

    told = [(answer.headers["ratelimit-limit"], answer.headers["ratelimit-remaining"]) for answer in answers]
    assert told == [("3", "2"), ("3", "1"), ("3", "0"), ("3", "0")]
    # A third of an hour for each; a request that takes its time is refilled a little meanwhile.
    resets = [int(answer.headers["ratelimit-reset"]) for answer in answers]
    assert [round(reset / 1200) for reset in resets] == [1, 2, 3, 3]
    assert ["retry-after" in answer.headers for answer in answers] == [False, False, False, True]
    assert 1100 < int(answers[3].headers["retry-after"]) <= 1201
    assert not [name for answer in answers for name in answer.headers if name.startswith("x-ratelimit")]


async def test_a_refusal_is_a_problem_and_no_service_hears_of_it(shop: Shop) -> None:
    await shop.statuses(3, "/orders", "ada")

    answer = await shop.ask("/orders", "ada")

    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["code"], problem["type"]) == (429, "too_many_requests", "/problems/too_many_requests")
    line = await shop.rig.logged(answer.headers["x-request-id"])
    assert (line["flags"], line["replica"], line["operation"]) == ("RL", None, "orders.mine")


async def test_an_operation_without_a_limit_says_nothing_of_limits(shop: Shop) -> None:
    answer = await shop.ask("/orders/free", "ada")

    assert answer.status_code == 200
    assert not [name for name in answer.headers if "ratelimit" in name or name == "retry-after"]


async def test_a_service_that_has_headers_of_that_name_does_not_change_what_is_told(shop: Shop) -> None:
    names = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
    own = "&".join(f"header-{prefix}{name}=77" for prefix in ("", "x-") for name in names)

    limited = await shop.ask(f"/orders/open?size=1&{own}")
    free = await shop.ask(f"/orders/free?size=1&{own}", "ada")

    assert (limited.headers["ratelimit-limit"], limited.headers["ratelimit-remaining"]) == ("3", "2")
    assert 0 < int(limited.headers["ratelimit-reset"]) <= 1201
    assert [limited.headers.get(f"x-{name}") for name in names] == [None] * 3
    assert [free.headers.get(f"{prefix}{name}") for prefix in ("", "x-") for name in names] == ["77"] * 6


async def test_an_answer_for_which_no_bucket_was_asked_tells_nothing_of_a_limit(shop: Shop) -> None:
    without_token = await shop.ask("/orders")
    too_large = await shop.http.post(f"{shop.rig.url}/orders", content=b"x" * (1 << 21))

    assert (without_token.status_code, too_large.status_code) == (401, 413)
    for answer in (without_token, too_large):
        assert [name for name in answer.headers if "ratelimit" in name] == []


async def test_a_bucket_refills(shop: Shop) -> None:
    """Ten thousand a second: what is taken is back before the next answer can be read."""
    for _ in range(5):
        answer = await shop.ask("/orders/quick", "ada")
        assert (answer.status_code, answer.headers["ratelimit-limit"]) == (200, "10000")
        assert int(answer.headers["ratelimit-remaining"]) >= 9_990


async def test_nobody_gets_a_full_bucket_by_a_change_of_routes_rates_replicas_or_keys(shop: Shop) -> None:
    """Neither by operations with rates and sizes that the gateway had not seen before."""
    assert await shop.statuses(4, "/orders", "ada") == [200, 200, 200, 429]
    assert await shop.statuses(1, "/orders", "grace") == [200]
    before = shop.rig.known
    newer = replace(known(ORDERS, NEWER, rate_limit="9000/h", address_rate_limit="5000/s"), keys=before.keys)
    two_keys = KeySet.of([*before.keys.keys, Mint().key.public], version=before.keys.version + 1)
    changes = {
        "another replica": shop.with_replicas(before, *shop.addresses),
        "new operations, new rates": shop.with_replicas(newer, *shop.addresses),
        "another key": replace(before, keys=two_keys),
        "all back": before,
    }
    for what, changed in changes.items():
        await shop.rig.apply(changed)
        assert await shop.statuses(1, "/orders", "ada") == [429], what
    assert await shop.statuses(3, "/orders", "grace") == [200, 200, 429]


async def test_another_rate_keeps_what_was_used(shop: Shop) -> None:
    """Half of the bucket is gone, whatever the whole is."""
    assert await shop.statuses(1, "/orders", "ada", method="POST") == [200]
    paths = ORDERS.document["openapi"]["paths"]
    post = {**paths["/orders"]["post"], "x-atoll-rate-limit": "100/h"}
    raised = contract("orders", {**paths, "/orders": {**paths["/orders"], "post": post}})
    what = known(raised, replicas=(replica(raised, "orders-1", shop.addresses[0]),))

    await shop.rig.apply(replace(what, keys=shop.rig.known.keys))

    answer = await shop.ask("/orders", "ada", method="POST")
    assert (answer.status_code, answer.headers["ratelimit-limit"], answer.headers["ratelimit-remaining"]) == (200, "100", "49")


async def test_one_client_has_one_limit_over_all_operations_beside_theirs(shop: Shop) -> None:
    what = known(ORDERS, replicas=tuple(shop.rig.known.replicas.values()), rate_limit="5/h")
    await shop.rig.apply(replace(what, keys=shop.rig.known.keys))

    assert await shop.statuses(3, "/orders/free", "ada") == [200, 200, 200]
    answers = [await shop.ask("/orders", "ada", method="POST") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    free = await shop.ask("/orders/free", "ada")
    assert (free.status_code, free.headers["ratelimit-limit"], free.headers["ratelimit-remaining"]) == (429, "5", "0")
    assert 600 < int(free.headers["retry-after"]) <= 721
    assert await shop.statuses(1, "/orders/free", "grace") == [200]
    # Paths that nobody has are asked for without a token: the address pays.
    assert await shop.statuses(6, "/nothing") == [404] * 5 + [429]


async def test_a_flood_from_one_address_is_refused_before_its_tokens_are_looked_at(shop: Shop) -> None:
    what = known(ORDERS, replicas=tuple(shop.rig.known.replicas.values()), address_rate_limit="1/s")
    await shop.rig.apply(replace(what, keys=shop.rig.known.keys))
    forged = {"authorization": f"Bearer {Mint().token()}"}

    answers = await asyncio.gather(*(shop.ask("/orders/free", **forged) for _ in range(40)))

    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {401, 429}
    assert statuses.count(429) > statuses.count(401)
    assert {answer.headers["retry-after"] for answer in answers if answer.status_code == 429} == {"1"}
