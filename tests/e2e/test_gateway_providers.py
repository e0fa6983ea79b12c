"""Tokens of another issuer at the real gateway, with the same attacks as at the services."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import httpx
import pytest
import pytest_asyncio

from atoll.gateway.ir import Gateway, Issuer, Listener, Route, TokenRule
from atoll.gateway.paths import Path
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from atoll.tokens import KeySet
from atoll.tokens.providers import ForeignKey, Provider, Providers
from tests.support.foreign import ALGORITHMS, ForeignMint
from tests.support.gateway import Rig, contract, gateway, known, replica, upstreams
from tests.support.golden import check
from tests.support.tokens import Mint

pytestmark = pytest.mark.asyncio(loop_scope="module")
OWN, CORP = Mint(), ForeignMint()
ORDERS = contract(
    "orders",
    {
        "/orders": {
            "get": {"security": [{"token": ["orders:read"]}]},
            "post": {"security": [{"token": ["orders:write"]}]},
            "delete": {"security": [{"token": ["auth:admin"]}]},
            "put": {"security": [{"token": []}]},
            "patch": {"security": [{"token": []}], "x-atoll-rate-limit": "2/h"},
        }
    },
)


@dataclass
class World:
    rig: Rig
    http: httpx.AsyncClient

    async def ask(self, token: str, method: str = "GET", **headers: str) -> httpx.Response:
        named = {"authorization": f"Bearer {token}", **headers}
        return await self.http.request(method, f"{self.rig.url}/orders", headers=named)

    async def trust(self, *providers: Provider) -> None:
        known = Providers(providers, self.rig.known.providers.version + 1)
        await self.rig.apply(replace(self.rig.known, providers=known))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("providers")
    async with upstreams(folder, "orders-1") as (one,), httpx.AsyncClient(timeout=20) as http:
        what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", one.address),))
        async with gateway(folder / "gateway", what, OWN) as rig:
            yield World(rig, http)


@pytest.mark.parametrize("alg", ALGORITHMS)
async def test_a_token_of_every_algorithm_is_taken_for_what_its_words_are_worth(world: World, alg: str) -> None:
    await world.trust(CORP.provider())
    assert (await world.ask(CORP.token(alg, ["reader"]))).status_code == 200
    assert (await world.ask(CORP.token(alg, ["reader"]), "POST")).status_code == 403
    assert (await world.ask(CORP.token(alg, ["writer", "x"]), "POST")).status_code == 200
    assert (await world.ask(CORP.token(alg, []), "PUT")).status_code == 200
    assert (await world.ask(OWN.token())).status_code == 200


async def test_another_issuers_ada_uses_up_nothing_of_ours(world: World) -> None:
    await world.trust(CORP.provider())
    foreign = [(await world.ask(CORP.token(), "PATCH")).status_code for _ in range(3)]
    own = [(await world.ask(OWN.token("ada"), "PATCH")).status_code for _ in range(3)]

    assert foreign == own == [200, 200, 429]


@pytest.mark.parametrize("alg", ALGORITHMS)
async def test_no_algorithm_is_taken_for_another(world: World, alg: str) -> None:
    await world.trust(CORP.provider())
    for name, token in CORP.confused(alg).items():
        assert (await world.ask(token)).status_code == 401, name


async def test_words_of_another_issuer_are_no_scopes(world: World) -> None:
    await world.trust(CORP.provider())
    for token in (
        CORP.token(words=["auth:admin", "orders:write"], scope="auth:admin orders:write"),
        CORP.token(words=["auth:admin"], scope=["auth:admin"], jwt={"scope": ["auth:admin"]}),
    ):
        assert [(await world.ask(token, method)).status_code for method in ("DELETE", "POST", "GET")] == [403] * 3


async def test_words_may_be_a_text_or_deeper(world: World) -> None:
    await world.trust(CORP.provider(scope_claim="scp"))
    assert (await world.ask(CORP.token(words=None, scp="openid reader"))).status_code == 200
    assert (await world.ask(CORP.token(words=None, scp="openid"))).status_code == 403
    await world.trust(CORP.provider(scope_claim="realm_access.roles"))
    assert (await world.ask(CORP.token(words=None, realm_access={"roles": ["reader"]}))).status_code == 200
    assert (await world.ask(CORP.token(words=["reader"]))).status_code == 403


async def test_what_is_for_others_late_or_from_nobody_is_refused(world: World) -> None:
    await world.trust(CORP.provider())
    past = int(time.time()) - 60
    for token in (
        CORP.token(aud="another"),
        CORP.token(exp=past),
        CORP.token(exp=None),
        CORP.token(iss="https://nobody.example"),
        CORP.token("ES256", iss=OWN.issuer, aud=OWN.audience),
        CORP.token("RS256", iss=OWN.issuer, aud=OWN.audience),
    ):
        refused = await world.ask(token)
        assert refused.status_code == 401
        assert refused.headers["content-type"] == "application/problem+json"


async def test_another_issuers_subject_is_never_taken_for_one_of_our_users(world: World) -> None:
    """Programs that believe the gateway's headers would: so it stands in another one."""
    await world.trust(CORP.provider())
    seen = (await world.ask(CORP.token(sub="our-admin"), **{"x-atoll-subject": "root"})).json()["headers"]
    assert "x-atoll-subject" not in seen
    assert "x-atoll-scope" not in seen
    assert (seen["x-atoll-foreign-subject"], seen["x-atoll-foreign-issuer"]) == ("our-admin", CORP.issuer)
    assert "x-atoll-foreign-subject" not in (await world.ask(OWN.token())).json()["headers"]


async def test_the_access_log_tells_whose_subject_it_was(world: World) -> None:
    await world.trust(CORP.provider())
    answers = [await world.ask(CORP.token(sub="ada")), await world.ask(OWN.token(sub="ada"))]
    lines = [await world.rig.logged(answer.headers["x-request-id"]) for answer in answers]
    said = [(line["subject"], line["foreign_subject"], line["foreign_issuer"]) for line in lines]
    assert said == [(None, "ada", CORP.issuer), ("ada", None, None)]


async def test_a_rotated_key_and_a_provider_that_left_count_at_once(world: World) -> None:
    mint = ForeignMint(keys=dict(CORP.keys))
    await world.trust(mint.provider())
    old = mint.token()
    assert (await world.ask(old)).status_code == 200
    mint.rotate("RS256", "newer")
    await world.trust(mint.provider())
    assert [(await world.ask(token)).status_code for token in (old, mint.token())] == [401, 200]
    await world.trust()
    assert (await world.ask(mint.token())).status_code == 401
    assert (await world.ask(OWN.token())).status_code == 200


async def test_a_provider_without_any_key_is_no_reason_to_keep_the_last_ones(world: World) -> None:
    await world.trust(CORP.provider())
    assert (await world.ask(CORP.token())).status_code == 200
    await world.trust(CORP.provider(keys=()))
    assert (await world.ask(CORP.token())).status_code == 401
    assert (await world.ask(OWN.token())).status_code == 200


async def test_the_filters_are_the_golden_file() -> None:
    key = ForeignKey("key-1", "OKP", "EdDSA", "Ed25519", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
    grants = {"Reader": ("orders:read",), "Admin": ("orders:read", "x")}
    corp = Provider("corp", "https://login.example/", "api://shop", "roles", grants, (key,))
    route = Route("orders.read", "orders", Path("/orders"), ("GET",), "orders", TokenRule(scope="orders:read"), 15.0, True)
    what = Gateway(Listener("h", 1), Issuer("http://localhost:8080/auth", "shop", KeySet()), (corp,), routes=(route,))
    rendered = render(what, Folders("/x"))
    table = {one.get("name"): one for one in rendered["rds"][0]["virtual_hosts"][0]["routes"]}
    shown = {"jwt": rendered["ecds"][0], "scope": table["orders.read"]["typed_per_filter_config"]}
    check("xds/providers.json", json.dumps(shown, indent=1) + "\n")
