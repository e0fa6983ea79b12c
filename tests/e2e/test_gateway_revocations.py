"""Ended sessions at the real gateway: refused at once, told apart from a missing scope, and without cost for everybody else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from atoll.engines import envoy
from atoll.gateway.ir import Gateway, Issuer, Listener
from atoll.gateway.xds import revocations
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from atoll.tokens.revocations import Revocations, RevokedShard, shard_of
from tests.support.gateway import Rig, contract, gateway, known, replica, upstreams
from tests.support.golden import check
from tests.support.tokens import Mint

pytestmark = pytest.mark.asyncio(loop_scope="module")
MINT = Mint()
ORDERS = contract(
    "orders",
    {
        "/orders": {"get": {"security": [{"token": []}]}, "post": {"security": [{"token": ["orders:admin"]}]}},
        "/orders/public": {"get": {"security": []}},
    },
)


@cache
def token_of(session: str) -> str:
    """Always the same: signing it again would make another."""
    return MINT.token(sub=f"user of {session}", sid=session)


def ended(*sessions: str, version: int = 1) -> Revocations:
    """What auth would have published when these had ended."""
    shards = {shard_of(session) for session in sessions}
    found = (RevokedShard(one, version, {name: 9_999_999_999 for name in sessions if shard_of(name) == one}) for one in shards)
    return Revocations().updated(*found)


@dataclass
class World:
    rig: Rig
    http: httpx.AsyncClient

    async def ask(self, session: str, path: str = "/orders", method: str = "GET") -> httpx.Response:
        """With a good token of that session, always the same."""
        headers = {"authorization": f"Bearer {token_of(session)}"}
        return await self.http.request(method, self.rig.url + path, headers=headers)

    async def end(self, *sessions: str) -> None:
        await self.rig.apply(replace(self.rig.known, revocations=ended(*sessions)))

    async def stat(self, name: str) -> int:
        answer = await self.http.get(f"http://{self.rig.admin}/stats?format=json&filter={name}")
        return sum(int(one["value"]) for one in answer.json()["stats"] if "value" in one)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("revocations")
    async with upstreams(folder, "orders-1") as (one,), httpx.AsyncClient(timeout=20) as http:
        what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", one.address),))
        async with gateway(folder / "gateway", what, MINT) as rig:
            yield World(rig, http)


async def test_a_session_that_was_ended_is_refused_and_told_so(world: World) -> None:
    assert (await world.ask("stolen")).status_code == 200
    await world.end("stolen")
    refused = await world.ask("stolen")
    assert (refused.status_code, refused.json()["code"]) == (401, "token_revoked")
    assert refused.json()["detail"] == "The session was ended"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
    assert (await world.ask("other")).status_code == 200


async def test_a_missing_scope_is_still_403_beside_ended_sessions(world: World) -> None:
    await world.end("stolen")
    assert (await world.ask("other", method="POST")).status_code == 403
    assert (await world.ask("stolen", method="POST")).status_code == 401


async def test_a_client_can_neither_end_a_session_nor_hide_its_own_by_a_header(world: World) -> None:
    await world.end("stolen")
    spoofed = {"x-atoll-session": "stolen"}
    good = {"authorization": f"Bearer {MINT.token(sid='other')}"}
    bad = {"authorization": f"Bearer {MINT.token(sid='stolen')}", "x-atoll-session": "other"}
    assert (await world.http.get(world.rig.url + "/orders/public", headers=spoofed)).status_code == 200
    assert (await world.http.get(world.rig.url + "/orders", headers=good | spoofed)).status_code == 200
    assert (await world.http.get(world.rig.url + "/orders", headers=bad)).status_code == 401


async def test_public_operations_ask_for_no_session(world: World) -> None:
    await world.end("stolen")
    assert (await world.ask("stolen", "/orders/public")).status_code == 200


async def test_ending_sessions_leaves_the_cache_of_verified_tokens_alone(world: World) -> None:
    """Counted, not timed: a token that was verified once is not verified again when somebody else's session ends."""
    await world.end("nobody")
    assert (await world.ask("regular")).status_code == 200
    misses = await world.stat("jwt_cache_miss")
    for number in range(5):
        await world.end("nobody", f"somebody-{number}")
        assert (await world.ask("regular")).status_code == 200
    assert await world.stat("jwt_cache_miss") == misses
    assert await world.stat("jwt_cache_hit") >= 5


async def test_a_session_that_left_the_list_is_taken_again(world: World) -> None:
    """Its tokens have expired long before: the list must not grow for ever."""
    await world.end("old")
    assert (await world.ask("old")).status_code == 401
    await world.rig.apply(replace(world.rig.known, revocations=Revocations()))
    assert (await world.ask("old")).status_code == 200


async def test_ten_thousand_ended_sessions_are_one_look_up(world: World) -> None:
    names = [f"session-{number}" for number in range(10_000)]
    await world.end(*names)
    assert {(await world.ask(name)).status_code for name in (names[0], names[5_000], names[-1])} == {401}
    assert (await world.ask("other")).status_code == 200


async def test_the_filter_is_the_golden_file() -> None:
    what = Gateway(Listener("127.0.0.1", 8080), Issuer("i", "a"), ended_sessions=("session-1", "session-2"))
    rendered = render(what, Folders("/shop/.atoll/gateway"))["revocations"]
    check("xds/ended_sessions.json", json.dumps(rendered, indent=1) + "\n")


async def test_envoy_takes_the_filter_in_any_size(tmp_path: Path) -> None:
    for sessions in ((), ("one",)):
        document = {"static_resources": {"listeners": [_listener(sessions)]}}
        (tmp_path / "listener.json").write_text(json.dumps(document))
        assert await envoy.check(envoy.find(), tmp_path / "listener.json") == ""


def _listener(sessions: tuple[str, ...]) -> dict[str, object]:
    resource = revocations.resource(sessions)
    ended_sessions = {"name": resource["name"], "typed_config": resource["typed_config"]}
    kind = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "atoll",
        "route_config": {"virtual_hosts": []},
        "http_filters": [ended_sessions, router],
    }
    return {
        "name": "atoll",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    }
