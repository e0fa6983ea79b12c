"""The gateway with the real Envoy: what a client gets, whatever it sends."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from atoll.engines import envoy
from tests.support.gateway import Rig, contract, gateway, known, replica, upstreams
from tests.support.tokens import Mint

MINT = Mint()
READ, WRITE, ANY = ([{"token": [scope]}] for scope in ("orders:read", "orders:write", ""))
ORDERS = contract(
    "orders",
    {
        "/orders": {"get": {"operationId": "mine", "security": READ}, "post": {"operationId": "place", "security": WRITE}},
        "/orders/{id}": {"get": {"operationId": "one", "security": [{"token": []}]}, "delete": {"security": WRITE}},
        "/orders/search": {"get": {"operationId": "search", "security": []}},
        "/orders/slow": {"get": {"operationId": "slow", "security": [], "x-atoll-timeout-s": 0.2}},
        "/orders/stream": {"get": {"operationId": "stream", "security": [], "x-atoll-streaming": True}},
        "/orders/files/{rest:path}": {"get": {"operationId": "files", "security": []}},
    },
)
DOWN = contract("down", {"/down": {"get": {"operationId": "get", "security": []}}})
GONE = contract("gone", {"/gone": {"get": {"operationId": "get", "security": []}}})


@dataclass
class Shop:
    """A gateway with one service, and one whose replica can't be reached, and one that has none."""

    rig: Rig
    http: httpx.Client


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("gateway")
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        rig = runner.run(_shop(folder, stack))
        with httpx.Client(base_url=rig.url, timeout=20) as http:
            yield Shop(rig, http)
        runner.run(stack.aclose())


async def _shop(folder: Path, stack: AsyncExitStack) -> Rig:
    (one,) = await stack.enter_async_context(upstreams(folder, "orders-1"))
    replicas = (replica(ORDERS, "orders-1", one.address), replica(DOWN, "down-1", "127.0.0.1:9"))
    what = known(ORDERS, DOWN, GONE, replicas=replicas)
    return await stack.enter_async_context(gateway(folder / "gateway", what, MINT))


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body, after checking what every problem has."""
    problem: dict[str, Any] = answer.json()
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"/problems/{code}")
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


def test_an_operation_reaches_its_service_with_the_claims_and_the_token(shop: Shop) -> None:
    token = MINT.token(sub="ada")

    seen = shop.http.get("/orders?limit=3", headers=_bearer(token)).json()

    assert (seen["method"], seen["path"]) == ("GET", "/orders")
    assert seen["headers"]["x-atoll-subject"] == "ada"
    assert seen["headers"]["x-atoll-scope"] == "orders:read orders:write"
    assert seen["headers"]["authorization"] == f"Bearer {token}"


def test_a_literal_path_beats_a_parameter(shop: Shop) -> None:
    assert shop.http.get("/orders/search").json()["path"] == "/orders/search"
    assert shop.http.get("/orders/files/a/b/c").json()["path"] == "/orders/files/a/b/c"
    _problem(shop.http.get("/orders/7"), 401, "unauthorized")
    assert shop.http.get("/orders/7", headers=_bearer(MINT.token(scope=""))).json()["path"] == "/orders/7"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/orders/search?size=1000&type=text/html&header-etag=%227%22&header-cache-control=no-cache&header-x-own=1", 200),
        ("/orders/search?size=70&status=409", 409),
        ("/orders", 401),
        ("/nowhere", 404),
        ("/gone", 503),
    ],
)
def test_head_is_answered_like_get_without_the_body(shop: Shop, path: str, status: int) -> None:
    """Its length too, which says how long the body would be."""
    get, head = shop.http.get(path), shop.http.head(path)

    assert (get.status_code, head.status_code) == (status, status)
    assert (len(get.content) > 0, head.content) == (True, b"")
    assert _lasting(head) == _lasting(get)
    assert int(head.headers["content-length"]) == len(get.content)


def _lasting(answer: httpx.Response) -> dict[str, str]:
    """Headers, without those that every answer has its own of."""
    return {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/orders", "GET, HEAD, POST, OPTIONS"),
        ("POST", "/orders/7", "GET, HEAD, DELETE, OPTIONS"),
        ("DELETE", "/orders/search", "GET, HEAD, OPTIONS"),
        ("POST", "/openapi.json", "GET, HEAD, OPTIONS"),
    ],
)
def test_another_method_is_405_and_told_which_there_are(shop: Shop, method: str, path: str, allow: str) -> None:
    answer = shop.http.request(method, path)

    assert _problem(answer, 405, "method_not_allowed")["detail"] == f"This path takes {allow}"
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/", "/nothing", "/orders/", "/orders/7/lines", "/ORDERS", "/ordersx"])
def test_an_unknown_path_is_404(shop: Shop, path: str) -> None:
    _problem(shop.http.get(path), 404, "not_found")


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/orders/../health/ready", "/control/ready?value=0"])
def test_health_checks_are_not_routed(shop: Shop, path: str) -> None:
    _problem(shop.http.get(path), 404, "not_found")


@pytest.mark.parametrize("kind", sorted(MINT.refused()))
def test_a_bad_token_is_401(shop: Shop, kind: str) -> None:
    answer = shop.http.get("/orders", headers=_bearer(MINT.refused()[kind]()))

    _problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic YTpi"}, {"authorization": "Bearer x"}])
def test_no_token_is_401(shop: Shop, headers: dict[str, str]) -> None:
    _problem(shop.http.get("/orders", headers=headers), 401, "unauthorized")


def test_a_token_in_the_query_is_not_taken(shop: Shop) -> None:
    _problem(shop.http.get("/orders", params={"access_token": MINT.token()}), 401, "unauthorized")


@pytest.mark.parametrize("scope", ["", "orders:read", "orders:writer", "xorders:write", "orders:write2 orders"])
def test_a_missing_scope_is_403_and_named(shop: Shop, scope: str) -> None:
    answer = shop.http.post("/orders", headers=_bearer(MINT.token(scope=scope)))

    assert _problem(answer, 403, "forbidden")["detail"] == "This operation needs the scope orders:write"
    assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="orders:write"'


@pytest.mark.parametrize("path", ["/orders", "/orders/search"])
def test_claim_headers_of_a_client_never_arrive(shop: Shop, path: str) -> None:
    spoofed = {"x-atoll-subject": "root", "x-atoll-scope": "all", "X-Atoll-Anything": "1", "x-forwarded-host": "evil"}

    seen = shop.http.get(path, headers=spoofed | _bearer(MINT.token(sub="ada"))).json()["headers"]

    assert seen.get("x-atoll-subject", "ada") == "ada"
    assert seen.get("x-atoll-scope", "orders:read orders:write") == "orders:read orders:write"
    assert not {"x-atoll-anything", "x-forwarded-host"} & seen.keys()


def test_a_client_does_not_steer_timeouts_and_retries(shop: Shop) -> None:
    steering = {"x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-max-retries": "50", "x-envoy-retry-on": "5xx"}

    answer = shop.http.get("/orders/search?delay_s=0.05", headers=steering)

    assert answer.status_code == 200
    assert [name for name in answer.json()["headers"] if name.startswith("x-envoy")] == []
    assert [name for name in answer.headers if name.startswith("x-envoy")] == []


@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_body_is_413(shop: Shop, chunked: bool) -> None:
    body = b"x" * (shop.rig.listener.body_limit_bytes + 1)
    content = (body[at : at + 65_536] for at in range(0, len(body), 65_536)) if chunked else body

    answer = shop.http.post("/orders", content=content, headers=_bearer(MINT.token()))

    _problem(answer, 413, "too_large")


def test_a_body_within_the_limit_passes(shop: Shop) -> None:
    answer = shop.http.post("/orders", content=b"x" * 1_000_000, headers=_bearer(MINT.token()))

    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/down", "/gone"])
def test_without_a_healthy_replica_it_is_503_and_says_nothing_of_the_inside(shop: Shop, path: str) -> None:
    answer = shop.http.get(path)

    problem = _problem(answer, 503, "outage")
    assert answer.headers["retry-after"] == "1"
    assert not re.search(r"127\.0|refused|upstream|cluster|envoy|reset", json.dumps(problem), re.IGNORECASE)


def test_a_service_that_takes_too_long_is_504(shop: Shop) -> None:
    _problem(shop.http.get("/orders/slow?delay_s=3"), 504, "timeout")


def test_each_piece_of_a_stream_is_there_before_the_next_one_is_sent(shop: Shop) -> None:
    """The service sends a piece when the client has said, in another request, that it has the one before."""
    with shop.http.stream("GET", "/orders/stream?stream=20&until=acknowledged") as answer:
        pieces = []
        for piece in answer.iter_raw():
            pieces.append(piece)
            assert shop.http.get("/orders/search?acknowledge=1").status_code == 200

    assert pieces == [b"data: %d\n\n" % number for number in range(20)]


def test_errors_of_a_service_pass_unchanged(shop: Shop) -> None:
    answer = shop.http.get("/orders/search?status=409")

    assert (answer.status_code, answer.json()["replica"]) == (409, "orders-1")


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET /orders/a%2fb HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
        (b"GET /orders HTTP/1.1\r\nHost: x\r\nx_atoll_subject: root\r\n\r\n", 400, "malformed"),
        (b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "malformed"),
        (b"GET /orders HTTP/1.1\r\n\r\n", 400, "malformed"),
        (b"GET /orders HTTP/1.0\r\nHost: x\r\n\r\n", 426, "upgrade_required"),
        (b"GET /orders HTTP/1.1\r\nHost: x\r\nbig: " + b"x" * 20_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"POST /orders HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", 501, "not_implemented"),
        (b"GET /orders/search HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 403, "forbidden"),
    ],
)
def test_what_is_no_valid_request_is_a_problem_too(shop: Shop, request_: bytes, status: int, code: str) -> None:
    raw = _raw(shop, request_)

    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d" % status), raw
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["code"] == code
    assert "scope" not in json.loads(body)["detail"]


def _raw(shop: Shop, request: bytes) -> bytes:
    """Sends bytes as they are; everything until the gateway is done."""
    with socket.create_connection(("127.0.0.1", shop.rig.listener.port), timeout=10) as connection:
        connection.sendall(request)
        found = b""
        while chunk := connection.recv(65_536):
            found += chunk
            head, separator, body = found.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if separator and length and len(body) >= int(length[1]):
                break
    return found


async def test_every_request_is_one_line_in_the_log(shop: Shop) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    answer = shop.http.get("/orders?token=secret", headers={"traceparent": trace, **_bearer(MINT.token(sub="ada"))})

    line = await shop.rig.logged(answer.headers["x-request-id"])
    assert answer.json()["headers"]["x-request-id"] == answer.headers["x-request-id"]
    assert answer.json()["headers"]["traceparent"] == line["traceparent"] == trace
    assert (line["subject"], line["operation"], line["service"]) == ("ada", "orders.mine", "orders")
    assert (line["method"], line["path"], line["status"], line["attempts"]) == ("GET", "/orders", 200, 1)
    assert line["replica"].startswith("127.0.0.1:")


def test_the_request_id_is_the_gateways_own(shop: Shop) -> None:
    answer = shop.http.get("/orders/search", headers={"x-request-id": "mine"})

    assert answer.headers["x-request-id"] != "mine"
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answer.headers["x-request-id"])


def test_openapi_and_docs_are_answered_by_the_gateway_itself(shop: Shop) -> None:
    api = shop.http.get("/openapi.json")
    page = shop.http.get("/docs")

    assert api.headers["content-type"] == "application/json"
    assert api.json()["paths"]["/orders"]["post"]["operationId"] == "orders.place"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "orders.place" in page.text


async def test_envoy_finds_nothing_wrong_with_the_files(shop: Shop) -> None:
    assert await envoy.check(envoy.find(), Path(shop.rig.folders.bootstrap)) == ""


def test_envoys_admin_reads_only(shop: Shop) -> None:
    admin = f"http://{shop.rig.admin}"

    assert httpx.get(f"{admin}/ready").status_code == 200
    assert httpx.post(f"{admin}/quitquitquit").status_code == 403
    assert httpx.post(f"{admin}/runtime_modify?a=b").status_code == 403
