"""The gateway's access log: one line a request that says who, what, where to, how long, and why it failed."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import Rig, contract, gateway, known, replica, upstreams
from tests.support.raw import exchange
from tests.support.tokens import Mint
from tests.support.waiting import until_sync

MINT = Mint()
ORDERS = contract(
    "orders",
    {
        "/orders": {"post": {"operationId": "place", "security": [{"token": ["orders:write"]}]}},
        "/orders/open": {"get": {"operationId": "open", "security": []}},
        "/orders/rare": {"get": {"operationId": "rare", "security": [], "x-atoll-rate-limit": "1/h"}},
        "/orders/slow": {"get": {"operationId": "slow", "security": [], "x-atoll-timeout-s": 0.2}},
    },
)
DOWN = contract("down", {"/down": {"get": {"operationId": "get", "security": []}}})
AUTH = contract("auth", {"/auth/token": {"post": {"operationId": "token", "security": []}}})
GONE = contract("gone", {"/gone": {"get": {"operationId": "get", "security": []}}})


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One service, one whose replica can't be reached, and one that has none."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yield runner.run(_rig(tmp_path_factory.mktemp("access"), stack))
        runner.run(stack.aclose())


async def _rig(folder: Path, stack: AsyncExitStack) -> Rig:
    (one,) = await stack.enter_async_context(upstreams(folder, "orders-1"))
    replicas = (replica(ORDERS, "orders-1", one.address), replica(DOWN, "down-1", "127.0.0.1:9"))
    return await stack.enter_async_context(
        gateway(folder / "gateway", known(ORDERS, DOWN, GONE, AUTH, replicas=replicas), MINT)
    )


def logged(rig: Rig, method: str, path: str, **headers: str) -> dict[str, Any]:
    """The line of one request that was made now."""
    answer = httpx.request(method, rig.url + path, headers=headers, timeout=20)
    return line(rig, "request_id", answer.headers["x-request-id"])


def line(rig: Rig, key: str, value: str) -> dict[str, Any]:
    return until_sync(lambda: next((one for one in rig.log_lines() if one[key] == value), {}), what="a log line")


def bearer(**changes: Any) -> str:
    return f"Bearer {MINT.token(**changes)}"


@pytest.mark.parametrize(
    ("method", "path", "status", "why"),
    [
        ("GET", "/orders/open", 200, ""),
        ("GET", "/orders/open?status=409", 409, "the service answered so"),
        ("POST", "/orders", 401, "token: Jwt is missing"),
        ("GET", "/nowhere", 404, "no operation has this path"),
        ("DELETE", "/orders", 405, "this path takes other methods"),
        ("GET", "/gone", 503, "no healthy replica"),
        ("GET", "/orders/slow?delay_s=5", 504, "the replica did not answer in time"),
    ],
)
def test_a_line_says_why_a_request_failed(rig: Rig, method: str, path: str, status: int, why: str) -> None:
    found = logged(rig, method, path)

    assert (found["status"], found["why"]) == (status, why), found


def test_every_request_is_exactly_one_line(rig: Rig) -> None:
    """Of whatever it comes to, also when it is sent to a replica more than once. All are written at one time."""
    paths = ["/orders/open", "/orders/open?status=500", "/down", "/gone", "/nowhere", "/orders"]
    with httpx.Client(base_url=rig.url, timeout=20) as http:
        ids = [http.get(path).headers["x-request-id"] for path in paths for _ in range(5)]
    for _ in range(2):  # what would be written twice is there with the second line after it
        logged(rig, "GET", "/orders/open")

    counted = Counter(one["request_id"] for one in rig.log_lines())
    assert [counted[one] for one in ids] == [1] * len(ids)


def test_a_lines_times_are_those_of_the_request(rig: Rig) -> None:
    begun = datetime.now(UTC)
    slow = logged(rig, "GET", "/orders/open?delay_s=0.3")
    ended = datetime.now(UTC)
    nobodys = logged(rig, "GET", "/nowhere")

    came = datetime.fromisoformat(slow["time"])
    assert begun - timedelta(milliseconds=1) <= came <= ended - timedelta(milliseconds=300)
    assert 300 <= slow["upstream_ms"] <= slow["duration_ms"] <= (ended - begun).total_seconds() * 1000
    assert nobodys["upstream_ms"] is None
    assert 0 <= nobodys["duration_ms"] < 300


def test_a_refused_token_is_told_with_what_is_wrong_with_it(rig: Rig) -> None:
    refused = logged(rig, "POST", "/orders", authorization=f"Bearer {MINT.expired()}")
    assert refused["why"] == "token: Jwt is expired"
    assert logged(rig, "POST", "/orders", authorization="Bearer nonsense")["why"].startswith("token: Jwt is not in the form")


def test_a_body_that_is_too_large_is_told(rig: Rig) -> None:
    answer = httpx.post(rig.url + "/orders", content=b"x" * 2_000_000, headers={"authorization": bearer()}, timeout=20)

    assert answer.status_code == 413
    assert line(rig, "request_id", answer.headers["x-request-id"])["why"] == "the body is larger than the gateway takes"


def test_an_api_key_that_auth_cant_be_asked_about_is_told(rig: Rig) -> None:
    found = logged(rig, "POST", "/orders", **{"x-api-key": "atoll_key_secret"})

    assert (found["status"], found["why"]) == (
        503,
        "auth did not answer or is asked too much, and the API key has no token yet",
    )
    assert "atoll_key_secret" not in json.dumps(found)
    twice = logged(rig, "POST", "/orders", authorization=bearer(), **{"x-api-key": "atoll_key_secret"})
    assert (twice["status"], twice["why"]) == (400, "an API key and a token at once")


def test_a_rate_limit_is_told_with_its_number(rig: Rig) -> None:
    assert logged(rig, "GET", "/orders/rare")["why"] == ""

    found = logged(rig, "GET", "/orders/rare")

    assert (found["status"], found["why"]) == (429, "more than the 1 requests that its rate limit allows")


def test_a_missing_scope_is_named(rig: Rig) -> None:
    found = logged(rig, "POST", "/orders", authorization=bearer(sub="ada", scope="orders:read"))

    assert found["why"] == "the token lacks the scope orders:write"
    assert (found["subject"], found["operation"], found["status"]) == ("ada", "orders.place", 403)


def test_a_replica_that_cant_be_reached_is_told_from_one_that_is_not_there(rig: Rig) -> None:
    assert logged(rig, "GET", "/down")["why"] in ("the connection to the replica failed", "no healthy replica")


def test_a_host_header_that_names_nobody_is_told(rig: Rig) -> None:
    assert logged(rig, "GET", "/orders/open", host="one,two")["why"] == "the Host header is not one host"


def test_a_client_that_goes_away_before_its_answer_has_one_line_that_says_so(rig: Rig) -> None:
    trace_id = secrets.token_hex(16)
    with socket.create_connection(("127.0.0.1", rig.listener.port), timeout=20) as raw:
        traceparent = f"traceparent: 00-{trace_id}-{'1' * 16}-00"
        raw.sendall(f"GET /orders/open?delay_s=8 HTTP/1.1\r\nHost: shop\r\n{traceparent}\r\n\r\n".encode())

    found = line(rig, "trace_id", trace_id)

    assert (found["status"], found["why"], found["operation"]) == (0, "the client went away", "orders.open")


def test_a_line_names_the_clients_trace(rig: Rig) -> None:
    trace_id = secrets.token_hex(16)

    found = logged(rig, "GET", "/orders/open", traceparent=f"00-{trace_id}-{'1' * 16}-01")

    assert found["trace_id"] == trace_id


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-" + "x" * 32 + "-" + "1" * 16 + "-01"])
def test_without_a_clients_trace_the_line_names_the_one_that_services_make(rig: Rig, traceparent: str) -> None:
    found = logged(rig, "GET", "/orders/open", **({"traceparent": traceparent} if traceparent else {}))

    assert found["trace_id"] == found["request_id"].replace("-", "")


def test_a_line_holds_neither_token_nor_query_string(rig: Rig) -> None:
    token = MINT.token()

    found = logged(rig, "POST", "/orders?secret=tulip", authorization=f"Bearer {token}", cookie="session=tulip")

    assert found["path"] == "/orders"
    assert token not in json.dumps(found)
    assert "tulip" not in json.dumps(found)


@pytest.mark.parametrize(
    ("sent", "status", "why"),
    [
        (b"GET /orders/open HTTP/1.1\r\nHost: shop\na: b\r\n\r\n", 400, "the bytes are not an HTTP/1.1 request"),
        (b"GET /orders/open HTTP/1.1\r\nHost: shop\r\na_b: c\r\n\r\n", 400, "the request is refused: unexpected underscore"),
        (b"GET /orders/open HTTP/1.1\r\nHost: shop\r\na: \x01\r\n\r\n", 400, "the request is refused: invalid characters"),
        (
            b"GET /orders/open HTTP/1.1\r\nHost: shop\r\na: %s\r\n\r\n" % (b"b" * 100_000),
            431,
            "the request is refused: headers too large",
        ),
    ],
    ids=["bare LF", "underscore", "control", "size"],
)
def test_what_is_refused_while_it_is_read_is_told(rig: Rig, sent: bytes, status: int, why: str) -> None:
    (answer,) = exchange(rig.listener.port, sent, enough=1)

    assert (answer.status, line(rig, "why", why)["status"]) == (status, status)


def test_what_is_no_valid_request_has_a_line_too(rig: Rig) -> None:
    with socket.create_connection(("127.0.0.1", rig.listener.port), timeout=20) as raw:
        raw.sendall(b"GET /orders/%2Fodd HTTP/1.1\r\nHost: shop\r\n\r\n")
        assert b" 400 " in raw.recv(4096)

    found = until_sync(
        lambda: [one for one in rig.log_lines() if "normalization" in one["details"] or "path" in one["details"]],
        what="a log line",
    )

    assert found[-1]["why"] == found[-1]["details"] != ""
