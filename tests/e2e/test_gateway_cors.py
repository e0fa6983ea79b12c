"""OPTIONS, and pages of other origins: who may call what, and who answers the question."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from atoll.gateway.admin import Admin
from atoll.gateway.diff import differences, running
from atoll.gateway.ir import Cors
from atoll.gateway.translate import translate
from atoll.gateway.xds.resources import render
from tests.support.gateway import Rig, contract, gateway, known, replica, upstreams
from tests.support.tokens import Mint

MINT = Mint()
TOKEN: dict[str, Any] = {"security": [{"token": ["orders:read"]}]}
PUBLIC: dict[str, Any] = {"security": []}
ORDERS = contract(
    "orders",
    {
        "/orders/{id}": {"get": TOKEN, "delete": TOKEN},
        "/orders/open": {"post": PUBLIC},
        "/orders/own": {"get": PUBLIC, "options": PUBLIC},
        "/orders/guarded": {"get": TOKEN, "options": TOKEN},
    },
)
LEGACY = contract("legacy", {})
CORS = Cors(
    origins=("https://shop.example", "https://*.partner.example"),
    credentials=True,
    max_age_s=600,
    headers=("authorization", "content-type"),
    exposed=("etag", "x-request-id"),
)
SHOP, PARTNER, STRANGER = "https://shop.example", "https://a.b.partner.example", "https://evil.example"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yield runner.run(_shop(tmp_path_factory.mktemp("cors"), stack))
        runner.run(stack.aclose())


@pytest.fixture(scope="module")
def shop(rig: Rig) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=rig.url, timeout=20) as http:
        yield http


async def _shop(folder: Path, stack: AsyncExitStack) -> Rig:
    one, two = await stack.enter_async_context(upstreams(folder, "orders-1", "legacy-1"))
    replicas = (replica(ORDERS, "orders-1", one.address), replica(LEGACY, "legacy-1", two.address))
    what = known(ORDERS, LEGACY, replicas=replicas, cors=CORS, fallback="legacy")
    return await stack.enter_async_context(gateway(folder / "gateway", what, MINT))


def _preflight(http: httpx.Client, path: str, origin: str = SHOP, method: str = "DELETE") -> httpx.Response:
    headers = {"origin": origin, "access-control-request-method": method, "access-control-request-headers": "authorization"}
    return http.options(path, headers=headers)


@pytest.mark.parametrize("origin", [SHOP, PARTNER])
def test_a_preflight_is_answered_without_a_token_and_without_the_service(shop: httpx.Client, origin: str) -> None:
    answer = _preflight(shop, "/orders/7", origin)

    assert answer.status_code // 100 == 2
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, DELETE, OPTIONS"
    assert answer.headers["access-control-allow-headers"] == "authorization, content-type"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["access-control-max-age"] == "600"
    assert answer.content == b""


def test_each_path_has_its_own_methods(shop: httpx.Client) -> None:
    assert _preflight(shop, "/orders/open", method="POST").headers["access-control-allow-methods"] == "POST, OPTIONS"
    assert _preflight(shop, "/openapi.json", method="GET").headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    "origin",
    [
        STRANGER,
        "http://shop.example",
        "https://shop.example:8443",
        "https://shop.example.evil.example",
        "https://partner.example",
        "https://evilpartner.example",
        "https://evil.example/.partner.example",
        "https://shopxexample",
        "null",
    ],
)
def test_an_origin_that_is_not_named_is_allowed_nothing(shop: httpx.Client, origin: str) -> None:
    preflight = _preflight(shop, "/orders/7", origin)
    answer = shop.post("/orders/open", headers={"origin": origin})

    assert "replica" not in preflight.text
    assert answer.json()["replica"] == "orders-1"
    for one in (preflight, answer):
        assert [name for name in one.headers if name.startswith("access-control-")] == []


def test_a_page_may_read_answers_and_errors_alike(shop: httpx.Client) -> None:
    served = shop.post("/orders/open", headers={"origin": SHOP})
    refused = shop.get("/orders/7", headers={"origin": SHOP})
    forbidden = shop.get("/orders/7", headers={"origin": SHOP, "authorization": f"Bearer {MINT.token(scope='')}"})

    assert [one.status_code for one in (served, refused, forbidden)] == [200, 401, 403]
    for one in (served, refused, forbidden):
        assert one.headers["access-control-allow-origin"] == SHOP
        assert one.headers["access-control-allow-credentials"] == "true"
        assert one.headers["access-control-expose-headers"] == "etag, x-request-id"
        assert one.headers["vary"] == "origin"


def test_every_page_may_read_the_api_document(shop: httpx.Client) -> None:
    assert shop.get("/openapi.json", headers={"origin": STRANGER}).headers["access-control-allow-origin"] == "*"


def test_who_is_no_page_is_told_the_methods(shop: httpx.Client) -> None:
    answer = shop.options("/orders/7")

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["allow"] == "GET, HEAD, DELETE, OPTIONS"
    assert "access-control-allow-origin" not in answer.headers
    assert shop.options("/orders/7/none").status_code == 404


def test_a_service_that_answers_options_to_anybody_answers_preflights_too(shop: httpx.Client) -> None:
    preflight = _preflight(shop, "/orders/own")

    assert preflight.json()["method"] == "OPTIONS"
    assert "access-control-allow-origin" not in preflight.headers


def test_one_that_wants_a_token_for_it_leaves_preflights_to_the_gateway(shop: httpx.Client) -> None:
    preflight = _preflight(shop, "/orders/guarded", method="GET")
    token = MINT.token(scope="orders:read")

    assert preflight.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
    assert shop.options("/orders/guarded").status_code == 401
    assert shop.options("/orders/guarded", headers={"authorization": f"Bearer {token}"}).json()["method"] == "OPTIONS"


@pytest.mark.parametrize("origin", [SHOP, STRANGER])
def test_what_falls_back_answers_for_itself(shop: httpx.Client, origin: str) -> None:
    preflight = _preflight(shop, "/elsewhere", origin)
    answer = shop.get("/elsewhere", headers={"origin": origin})

    assert preflight.json()["replica"] == answer.json()["replica"] == "legacy-1"
    assert not {"access-control-allow-origin", "vary"} & {*preflight.headers, *answer.headers}


async def test_without_cors_a_preflight_says_the_methods_and_allows_nothing(tmp_path: Path) -> None:
    async with gateway(tmp_path, known(ORDERS)) as rig, httpx.AsyncClient() as http:
        headers = {"origin": SHOP, "access-control-request-method": "DELETE"}
        answer = await http.options(f"{rig.url}/orders/7", headers=headers)

    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, DELETE, OPTIONS")
    assert [name for name in answer.headers if name.startswith("access-control-")] == []


def test_an_envoy_that_does_what_it_should_differs_in_nothing(rig: Rig) -> None:
    wanted = render(translate(rig.known, rig.listener), rig.folders)
    dump = asyncio.run(Admin(rig.admin).dump())

    assert dump
    assert differences(wanted, running(dump)) == ()
