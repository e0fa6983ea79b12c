"""HTTP/2 that no honest client sends: a field that HTTP/1.1 could be tricked with ends its stream and reaches no service."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest

from tests.support.gateway import Rig, contract, gateway, known, replica
from tests.support.raw import Recorder, recorder
from tests.support.tokens import Mint

ORDERS = contract("orders", {"/orders/open": {"get": {"security": []}, "post": {"security": []}}, "/orders/own": {"get": {}}})

Fields = list[tuple[str, str]]


@dataclass
class World:
    rig: Rig
    service: Recorder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with asyncio.Runner() as runner, recorder() as service:
        stack = AsyncExitStack()
        rig = runner.run(_rig(tmp_path_factory.mktemp("http2"), service, stack))
        yield World(rig, service)
        runner.run(stack.aclose())


async def _rig(folder: Path, service: Recorder, stack: AsyncExitStack) -> Rig:
    what = known(ORDERS, replicas=(replica(ORDERS, "orders-1", service.address),))
    return await stack.enter_async_context(gateway(folder, what, Mint()))


def request(path: str = "/orders/open", method: str = "GET", **changes: str) -> Fields:
    fields = {":method": method, ":scheme": "http", ":authority": "shop", ":path": path}
    return [*(fields | {f":{name}": value for name, value in changes.items()}).items()]


def ask(port: int, fields: Fields, body: bytes | None = None) -> str:
    """The answer's status, or how the stream or the connection ended."""
    config = h2.config.H2Configuration(
        header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
    )
    connection = h2.connection.H2Connection(config)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
        connection.initiate_connection()
        connection.send_headers(1, fields, end_stream=body is None)
        if body is not None:
            connection.send_data(1, body, end_stream=True)
        link.sendall(connection.data_to_send())
        while received := link.recv(65_536):
            for event in connection.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived):
                    headers: dict[Any, Any] = dict(event.headers)
                    return str(headers[":status"])
                if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return "ended"
            link.sendall(connection.data_to_send())
    return "ended"


def test_an_honest_request_is_answered(world: World) -> None:
    before = len(world.service.seen)

    assert ask(world.rig.listener.port, request()) == "200"
    assert ask(world.rig.listener.port, request(method="POST"), b"abc") == "200"

    assert [one.body for one in world.service.seen[before:]] == [b"", b"abc"]


TRICKS: dict[str, Fields] = {
    "connection": [*request(), ("connection", "close")],
    "transfer-encoding": [*request(method="POST"), ("transfer-encoding", "chunked")],
    "upgrade": [*request(), ("upgrade", "h2c")],
    "keep-alive": [*request(), ("keep-alive", "timeout=5")],
    "proxy-connection": [*request(), ("proxy-connection", "close")],
    "te": [*request(), ("te", "gzip")],
    "upper case": [*request(), ("X-Upper", "a")],
    "LF in a value": [*request(), ("a", "b\nc: d")],
    "CR LF in a value": [*request(), ("a", "b\r\nx-atoll-subject: root")],
    "NUL in a value": [*request(), ("a", "b\0c")],
    "a colon in a name": [*request(), ("a:b", "c")],
    "a space in a name": [*request(), ("a b", "c")],
    "LF in a name": [*request(), ("a\nb", "c")],
    "an underscore in a name": [*request(), ("x_atoll_subject", "root")],
    "an empty name": [*request(), ("", "c")],
    "CR LF in the path": request("/orders/open HTTP/1.1\r\nHost: evil\r\n\r\nGET /orders/own"),
    "a space in the path": request("/orders/open a"),
    "CR LF in the method": request(method="GET /orders/own HTTP/1.1\r\na: b\r\n\r\nGET"),
    "CR LF in the authority": request(authority="shop\r\na: b"),
    "two authorities in one": request(authority="shop,evil"),
    "a user in the authority": request(authority="user@shop"),
    "two paths": [*request(), (":path", "/orders/own")],
    "two methods": [*request(), (":method", "POST")],
    "no path": [(name, value) for name, value in request() if name != ":path"],
    "no method": [(name, value) for name, value in request() if name != ":method"],
    "an unknown pseudo header": [*request(), (":nonsense", "a")],
    "a pseudo header after others": [*request()[:3], ("a", "b"), *request()[3:]],
    "a thousand headers": [*request(), *((f"a{number}", "b") for number in range(1000))],
    "a length that is wrong": [*request(), ("content-length", "5")],
    "two lengths": [*request(method="POST"), ("content-length", "3"), ("content-length", "4")],
    "a length with a sign": [*request(method="POST"), ("content-length", "+3")],
}


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_ends_its_stream_and_reaches_no_service(world: World, name: str) -> None:
    fields, before = TRICKS[name], len(world.service.seen)
    body = b"abc" if (":method", "POST") in fields and name != "two methods" else None

    said = ask(world.rig.listener.port, fields, body)

    assert said in {"ended", "400", "431"}
    assert [one for one in world.service.seen[before:] if one.whole] == []


def test_a_spelling_of_a_path_does_not_get_past_a_token_check(world: World) -> None:
    before = len(world.service.seen)

    for path in ("/orders/own", "/orders/open/../own", "/orders/%6fwn", "//orders/own", "/orders\\own"):
        assert ask(world.rig.listener.port, request(path)) == "401"

    assert world.service.seen[before:] == []


def test_another_host_beside_the_authority_does_not_arrive(world: World) -> None:
    said = ask(world.rig.listener.port, [*request(), ("host", "evil")])

    assert said == "200"
    assert world.service.seen[-1].values("host") == ["shop"]
