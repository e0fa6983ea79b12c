"""API keys at the real gateway, with an auth whose answers the test decides and counts."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
import pytest_asyncio
import uvicorn

from atoll.gateway.ir import ApiKeys, Gateway, Issuer, Listener
from atoll.gateway.xds import api_keys
from atoll.tokens.revocations import Revocations, RevokedShard, shard_of
from tests.support.gateway import Rig, Upstream, contract, gateway, known, replica, upstreams
from tests.support.golden import check
from tests.support.ports import free_port
from tests.support.tokens import Mint
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
MINT = Mint()
ORDERS = contract(
    "orders",
    {
        "/orders": {"get": {"security": [{"token": []}]}, "post": {"security": [{"token": ["orders:admin"]}]}},
        "/orders/hook": {"get": {"security": []}},
        "/orders/few": {"get": {"security": [{"token": []}], "x-atoll-rate-limit": "3/h"}},
    },
)
AUTH = contract("auth", {"/auth/token": {"post": {"security": []}}})


@dataclass
class Exchange:
    """Stands where auth stands: gives a token for keys in `good`. `asked` counts, by key."""

    good: dict[str, int] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    status: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = (await receive()).get("body", b"").decode()
        if scope["path"] == "/health/ready":
            await _answer(send, 200, {})
            return
        form = {name: values[0] for name, values in parse_qs(body).items()}
        assert form["grant_type"].endswith(":token-exchange")
        key = form["subject_token"]
        self.asked[key] += 1
        if self.status or key not in self.good:
            await _answer(send, self.status or 400, {"error": "invalid_grant"})
            return
        id = key.split("_")[1]
        token = MINT.token(sub="batch", sid=id, atoll_key=id, exp=int(time.time()) + self.good[key])
        await _answer(send, 200, {"access_token": token, "expires_in": self.good[key], "token_type": "Bearer"})


async def _answer(send: Any, status: int, content: Any) -> None:
    body = json.dumps(content, separators=(",", ":")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(app: Any, port: int) -> AsyncIterator[uvicorn.Server]:
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield server
    finally:
        server.should_exit = True
        await task


@dataclass
class World:
    rig: Rig
    exchange: Exchange
    http: httpx.AsyncClient
    upstream: Upstream
    keys: int = 0

    def key(self, lifetime_s: int = 300) -> str:
        """A new one that is good."""
        self.keys += 1
        key = f"atoll_key-{self.keys}-{os.getpid()}_{'s' * 40}"
        self.exchange.good[key] = lifetime_s
        return key

    async def ask(self, path: str = "/orders", method: str = "GET", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.request(method, self.rig.url + path, headers=named)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder, exchange, port = tmp_path_factory.mktemp("api-keys"), Exchange(), free_port()
    async with upstreams(folder, "orders-1") as (one,), serving(exchange, port), httpx.AsyncClient(timeout=20) as http:
        replicas = (replica(ORDERS, "orders-1", one.address), replica(AUTH, "auth-1", f"127.0.0.1:{port}"))
        async with gateway(folder / "gateway", known(ORDERS, AUTH, replicas=replicas), MINT) as rig:
            yield World(rig, exchange, http, one)


async def test_a_key_is_a_token_behind_the_gateway_and_asked_for_once(world: World) -> None:
    key = world.key()
    for _ in range(8):
        seen = (await world.ask(x_api_key=key)).json()["headers"]
        assert seen["authorization"].startswith("Bearer ey")
        assert (seen["x-atoll-subject"], seen["x-atoll-session"]) == ("batch", key.split("_")[1])
        assert "x-api-key" not in seen
    assert world.exchange.asked[key] <= 2, "once for each worker thread"


async def test_a_key_has_the_scopes_of_its_token_and_no_others(world: World) -> None:
    refused = await world.ask(method="POST", x_api_key=world.key())
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


async def test_an_unknown_key_is_refused_and_not_asked_for_again_at_once(world: World) -> None:
    unknown = f"atoll_nobody_{'n' * 40}"
    for _ in range(8):
        refused = await world.ask(x_api_key=unknown)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert refused.json()["detail"] == "The API key is not known, or is not good any more"
        assert refused.headers["www-authenticate"] == "Bearer"
    assert world.exchange.asked[unknown] <= 2


@pytest.mark.parametrize("nonsense", ["x", "atoll_", "atoll_a_b&grant_type=password", "atoll_a_" + "s" * 300, "Bearer x"])
async def test_what_can_not_be_a_key_is_refused_without_asking(world: World, nonsense: str) -> None:
    before = world.exchange.asked.total()
    assert (await world.ask(x_api_key=nonsense)).status_code == 401
    assert world.exchange.asked.total() == before


async def test_two_credentials_in_one_request_are_refused(world: World) -> None:
    refused = await world.ask(x_api_key=world.key(), authorization=f"Bearer {MINT.token()}")
    assert (refused.status_code, refused.json()["code"]) == (400, "two_credentials")


async def test_a_key_beside_the_token_of_a_socket_is_refused_too(world: World) -> None:
    refused = await world.ask(x_api_key=world.key(), sec_websocket_protocol=f"bearer.{MINT.token()}")
    assert (refused.status_code, refused.json()["code"]) == (400, "two_credentials")


async def test_a_request_without_a_key_is_what_it_was(world: World) -> None:
    assert (await world.ask()).status_code == 401
    assert (await world.ask(authorization=f"Bearer {MINT.token()}")).status_code == 200


async def test_where_no_token_is_needed_the_header_is_the_services_own(world: World) -> None:
    before = world.exchange.asked.total()
    seen = (await world.ask("/orders/hook", x_api_key="somebody else's")).json()["headers"]
    assert seen["x-api-key"] == "somebody else's"
    assert (await world.ask("/nothing", x_api_key="somebody else's")).status_code == 404
    assert world.exchange.asked.total() == before


async def test_every_key_of_a_client_has_a_bucket_of_its_own(world: World) -> None:
    """Also while its token is another one in each worker thread, and beside what its client asks for with a token."""
    first, second = world.key(), world.key()

    async def statuses(**credential: str) -> list[int]:
        return [(await world.ask("/orders/few", **credential)).status_code for _ in range(4)]

    assert await statuses(x_api_key=first) == [200, 200, 200, 429]
    assert await statuses(x_api_key=second) == [200, 200, 200, 429]
    assert await statuses(authorization=f"Bearer {MINT.token(sub='batch')}") == [200, 200, 200, 429]


async def test_a_token_is_renewed_before_it_expires_and_no_request_fails(world: World) -> None:
    key = world.key(lifetime_s=5)
    statuses: Counter[int] = Counter()
    async with asyncio.timeout(60):
        while world.exchange.asked[key] < 4:
            statuses[(await world.ask(x_api_key=key)).status_code] += 1
    assert set(statuses) == {200}
    assert statuses[200] > 20, "not asked for at every request"


async def test_guesses_are_bounded_and_known_keys_do_not_feel_it(world: World, tmp_path: Path) -> None:
    """In a gateway of its own: nobody else is asked for what is spent here."""
    port, exchange = free_port(), Exchange()
    replicas = (replica(ORDERS, "orders-1", world.upstream.address), replica(AUTH, "auth-1", f"127.0.0.1:{port}"))
    async with serving(exchange, port), gateway(tmp_path, known(ORDERS, AUTH, replicas=replicas), MINT) as rig:
        guessing = World(rig, exchange, world.http, world.upstream)
        good = guessing.key()
        await until(lambda: _is_taken(guessing, good))
        answers = [await guessing.ask(x_api_key=f"atoll_{number}_{'n' * 40}") for number in range(60)]
        asked = exchange.asked.total() - exchange.asked[good]
        assert {answer.status_code for answer in answers} == {401, 429}
        assert asked < 30, "10 at once for each of two workers, then one in six seconds"
        told = next(answer for answer in answers if answer.status_code == 429)
        assert (told.json()["code"], 1 <= int(told.headers["retry-after"]) <= 6) == ("too_many_requests", True)
        line = await rig.logged(told.headers["x-request-id"])
        assert line["why"] == "more unknown API keys than one address may try"
        assert [await _is_taken(guessing, good) for _ in range(20)] == [True] * 20


async def test_behind_a_proxy_each_client_has_its_own_guesses(world: World, tmp_path: Path) -> None:
    port, exchange = free_port(), Exchange()
    replicas = (replica(ORDERS, "orders-1", world.upstream.address), replica(AUTH, "auth-1", f"127.0.0.1:{port}"))
    what = known(ORDERS, AUTH, replicas=replicas, trusted_proxies=("127.0.0.1/32",))
    async with serving(exchange, port), gateway(tmp_path, what, MINT) as rig:
        guessing = World(rig, exchange, world.http, world.upstream)

        async def guess(number: int, client: str) -> int:
            key = f"atoll_{number}_{'n' * 40}"
            return (await guessing.ask(x_api_key=key, x_forwarded_for=client)).status_code

        await until(lambda: _is_taken(guessing, guessing.key()))
        assert {await guess(number, "203.0.113.9") for number in range(60)} == {401, 429}
        assert {await guess(number, "203.0.113.10") for number in range(60, 65)} == {401}


async def test_keys_that_are_good_are_no_guesses_however_many_come_from_one_address(world: World) -> None:
    assert {(await world.ask(x_api_key=world.key())).status_code for _ in range(40)} == {200}


async def _is_taken(world: World, key: str) -> bool:
    return (await world.ask(x_api_key=key)).status_code == 200


async def test_while_auth_is_out_known_keys_go_on_and_unknown_ones_are_told(world: World) -> None:
    key = world.key(lifetime_s=10)
    for _ in range(30):  # both workers know it
        assert (await world.ask(x_api_key=key)).status_code == 200
        async with httpx.AsyncClient() as other:
            assert (await other.get(world.rig.url + "/orders", headers={"x-api-key": key})).status_code == 200
    world.exchange.status = 503
    try:
        async with httpx.AsyncClient() as other:
            assert (await other.get(world.rig.url + "/orders", headers={"x-api-key": key})).status_code == 200
        unknown = await world.ask(x_api_key=world.key())
        assert (unknown.status_code, unknown.json()["code"]) == (503, "outage")
    finally:
        world.exchange.status = 0


async def test_a_key_that_is_deleted_is_refused_although_its_token_is_remembered(world: World) -> None:
    key = world.key()
    assert (await world.ask(x_api_key=key)).status_code == 200
    session = key.split("_")[1]
    shard = RevokedShard(shard_of(session), 1, {session: 9_999_999_999})
    await world.rig.apply(replace(world.rig.known, revocations=Revocations().updated(shard)))
    refused = await world.ask(x_api_key=key)
    assert (refused.status_code, refused.json()["code"]) == (401, "token_revoked")


async def test_no_log_has_a_key(world: World) -> None:
    key = world.key()
    answer = await world.ask(x_api_key=key)
    await world.rig.logged(answer.headers["x-request-id"])
    folder = world.rig.root
    assert key not in (folder / "access.log").read_text() + (folder / "envoy.log").read_text()


async def test_the_filter_is_the_golden_file() -> None:
    text = json.dumps(api_keys.filter_(ApiKeys("auth", "/auth/token")), indent=1)
    check("xds/api_keys.json", text + "\n")


async def test_a_system_without_auth_has_no_filter_for_keys(tmp_path: Path) -> None:
    from atoll.gateway.xds import order
    from atoll.gateway.xds.folders import Folders

    names = [one["name"] for one in order.filters(Gateway(Listener("h", 1), Issuer("i", "a")), Folders("/x"))]
    assert api_keys.NAME not in names
