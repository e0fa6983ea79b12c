"""A service's WebSockets as its own server serves them, without the gateway."""

from __future__ import annotations

import asyncio
import json
import logging
import socket as sockets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from atoll import Conflict, Outage, Principal, Service, WebSocket
from atoll.service.http import build_app
from atoll.service.injection import Injector
from atoll.service.server import Server, message_limit_bytes
from tests.support.services import bearer, verify
from tests.support.tls import Files
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Gone(Outage):
    code = "gone"


class Full(Conflict):
    code = "room_full"


class Desk:
    """Made for one socket, and cleaned up after it."""


@dataclass
class Log:
    made: int = 0
    left: list[str] = field(default_factory=list)


LOG = Log()
service = Service("chat", database=None)


@service.provides(lifetime="call")
async def desk() -> AsyncIterator[Desk]:
    LOG.made += 1
    try:
        yield Desk()
    finally:
        LOG.made -= 1


@service.websocket("/chat/rooms/{id}", scope="chat:join")
async def room(socket: WebSocket, id: int, me: Principal, desk: Desk, since: int = 0) -> None:
    if id == 13:
        raise Full("13 is full")
    await socket.accept(subprotocol=next(iter(socket["subprotocols"]), None))
    await socket.send_json([id, me.id, since, socket["subprotocols"], socket.headers.get("sec-websocket-protocol", "")])
    async for message in socket.iter_text():
        await socket.send_text(message.upper())
    LOG.left.append(me.id)


@service.websocket("/chat/open", public=True, message_limit_bytes=1000)
async def open_(socket: WebSocket) -> None:
    await socket.accept()
    while True:
        match await socket.receive_text():
            case "mistake":
                raise Full("it is full")
            case "bug":
                raise RuntimeError("secret")
            case "outage":
                raise Gone("it is gone")
            case "return":
                return
            case "close":
                await socket.close(4001, "as you wish")
            case "both":
                gone = asyncio.Event()
                async with asyncio.TaskGroup() as group:
                    group.create_task(_hear(socket, gone))
                    group.create_task(_talk(socket, gone))
            case message:
                await socket.send_text(message)


async def _hear(socket: WebSocket, gone: asyncio.Event) -> None:
    try:
        await socket.receive_text()
    finally:
        gone.set()


async def _talk(socket: WebSocket, gone: asyncio.Event) -> None:
    await socket.send_text("more")
    await gone.wait()
    await socket.send_text("to nobody")


@service.websocket("/chat/closed", public=True)
async def closed(socket: WebSocket, code: int) -> None:
    await socket.close(code, "not now")


@service.websocket("/chat/silent", public=True)
async def silent(socket: WebSocket) -> None: ...


@service.websocket("/chat/denied", public=True)
async def denied(socket: WebSocket) -> None:
    await socket.send_denial_response(PlainTextResponse("its own", status_code=418))


@service.post("/chat/open", public=True)
async def say() -> None: ...


@dataclass
class Running:
    port: int
    server: Server
    app: Any

    def open(self, path: str, headers: dict[str, str] | None = None, protocols: tuple[str, ...] = ()) -> connect:
        offered = [Subprotocol(one) for one in protocols] or None
        url = f"ws://127.0.0.1:{self.port}{path}"
        return connect(url, additional_headers=headers, subprotocols=offered, max_size=None, proxy=None)

    async def refused(self, *arguments: Any, **more: Any) -> Any:
        """The answer instead of an upgrade."""
        with pytest.raises(InvalidStatus) as refused:
            async with self.open(*arguments, **more):
                raise AssertionError("it was upgraded")
        return refused.value.response


@asynccontextmanager
async def serving(service: Service, tls: ssl.SSLContext | None = None) -> AsyncIterator[Running]:
    injector = Injector(service)
    await injector.start()
    app: Any = build_app(service, database=None, verify=verify, injector=injector)
    with sockets.create_server(("127.0.0.1", 0)) as listener:
        server = Server(app, tls=tls, message_limit_bytes=message_limit_bytes(service))
        await server.start(listener)
        yield Running(listener.getsockname()[1], server, app)
        await server.stop(5.0)
    await injector.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chat() -> AsyncIterator[Running]:
    async with serving(service) as running:
        yield running


async def end(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Code and reason of the close that comes, whatever comes before."""
    with suppress(ConnectionClosed):
        async for _ in socket:
            pass
    return socket.close_code, socket.close_reason


async def test_a_handler_gets_path_query_caller_and_what_is_provided_and_both_talk(chat: Running) -> None:
    async with chat.open("/chat/rooms/7?since=3", bearer("ada", "chat:join")) as socket:
        assert await socket.recv() == '[7,"ada",3,[],""]'
        await socket.send("hello")
        assert await socket.recv() == "HELLO"
        assert LOG.made == 1
    async with chat.open("/chat/open"):
        pass

    await until(lambda: LOG.made == 0)
    assert LOG.left[-1] == "ada"


async def test_a_token_among_the_protocols_counts_and_is_not_chosen_as_one(chat: Running) -> None:
    answer = await chat.refused("/chat/rooms/7", protocols=("bearer.ada", "chat.v1"))
    assert answer.status_code == 403, "ada's token was read, and lacks the scope"

    async with chat.open("/chat/rooms/7", bearer("ada", "chat:join"), ("chat.v1",)) as socket:
        assert await socket.recv() == '[7,"ada",0,["chat.v1"],"chat.v1"]'
        assert socket.subprotocol == "chat.v1"


@pytest.mark.parametrize(
    ("headers", "protocols"),
    [
        (bearer("ada", "chat:join"), ("bearer.bob",)),
        ({"authorization": "Basic x"}, ("bearer.ada",)),
        ({}, ("bearer.a", "bearer.b")),
    ],
)
async def test_of_two_tokens_none_counts(chat: Running, headers: dict[str, str], protocols: tuple[str, ...]) -> None:
    answer = await chat.refused("/chat/rooms/7", headers, protocols)
    assert (answer.status_code, json.loads(answer.body)["code"]) == (400, "two_credentials")


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/chat/rooms/7", {}, 401, "token_missing"),
        ("/chat/rooms/7", {"authorization": "Bearer expired"}, 401, "unauthorized"),
        ("/chat/rooms/7", bearer("ada"), 403, "forbidden"),
        ("/chat/rooms/x", bearer("ada", "chat:join"), 422, "invalid"),
        ("/chat/rooms/13", bearer("ada", "chat:join"), 409, "room_full"),
        ("/chat/closed?code=4401", {}, 401, "refused"),
        ("/chat/closed?code=1008", {}, 403, "forbidden"),
        ("/chat/silent", {}, 500, "bug"),
        ("/chat/nothing", {}, 404, "not_found"),
    ],
)
async def test_before_it_is_accepted_everything_is_answered_as_a_request_is(
    chat: Running, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await chat.refused(path, headers)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert f'"code":"{code}"' in answer.body.decode()


async def test_a_handler_may_answer_instead(chat: Running) -> None:
    answer = await chat.refused("/chat/denied")

    assert (answer.status_code, answer.body) == (418, b"its own")


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        ("close", 4001, "as you wish"),
        ("return", 1000, ""),
        ("mistake", 4409, "room_full"),
        ("outage", 1013, "gone"),
        ("bug", 1011, "internal"),
        ("x" * 1001, 1009, "a message is larger than 1,000 bytes"),
        ("ä" * 501, 1009, "a message is larger than 1,000 bytes"),
        (b"hello", 1003, "this socket takes text only"),
    ],
)
async def test_afterwards_it_is_a_close_code(chat: Running, said: str | bytes, code: int, reason: str) -> None:
    async with chat.open("/chat/open") as socket:
        await socket.send("x" * 1000)
        await socket.send(said)
        assert await end(socket) == (code, reason)


async def test_a_message_beyond_every_limit_is_not_even_read(chat: Running) -> None:
    async with chat.open("/chat/open") as socket:
        await socket.send("x" * ((1 << 20) + 1))
        assert (await end(socket))[0] == 1009


async def test_an_unexpected_error_is_logged_and_a_client_that_leaves_is_not(
    chat: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with chat.open("/chat/open") as socket:
        await socket.send("both")
        await socket.recv()
    async with chat.open("/chat/open"):
        pass
    for said in ("close", b"wrong kind"):
        async with chat.open("/chat/open") as socket:
            await socket.send(said)
            await end(socket)
    async with chat.open("/chat/open") as socket:
        await socket.send("bug")
        await end(socket)

    errors = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
    assert errors == ["answered 500: secret"]


async def test_a_plain_request_is_told_that_an_upgrade_is_needed(chat: Running) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{chat.port}") as http:
        answer = await http.get("/chat/rooms/7")
        assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
        assert (await http.get("/chat/open")).status_code == 426
        assert (await http.post("/chat/open")).status_code == 204
        assert (await http.put("/chat/open")).status_code == 405


async def test_openings_are_counted_by_what_they_were_answered() -> None:
    async with serving(service) as chat:
        async with chat.open("/chat/rooms/7", bearer("ada", "chat:join")):
            pass
        await chat.refused("/chat/rooms/7")
        await chat.refused("/chat/denied")

        outcomes = {
            id: [one.labels["status"] for one in chat.app.meters[id].outcomes({}, "status")] for id in ("room", "denied")
        }
    assert outcomes == {"room": ["101", "401"], "denied": ["418"]}


async def test_a_server_that_stops_says_so_to_open_sockets() -> None:
    async with serving(service) as running, running.open("/chat/open") as socket:
        await socket.send("still there")
        assert await socket.recv() == "still there"
        await running.server.stop(5.0)
        assert (await end(socket))[0] == 1012


async def test_it_is_the_same_over_tls(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.fill()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    async with serving(service, context) as running:
        url = f"wss://localhost:{running.port}/chat/open"
        async with connect(url, ssl=files.trusting(), proxy=None) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
            await running.server.stop(5.0)
            assert (await end(socket))[0] == 1012


# an application of before


async def echo(socket: WebSocket) -> None:
    await socket.accept(subprotocol=next(iter(socket["subprotocols"]), None))
    await socket.send_text(f"{socket.headers.get('x-atoll-subject')} {socket.headers.get('sec-websocket-protocol')}")
    async for message in socket.iter_bytes():
        await socket.send_bytes(message)


LEGACY = Starlette(routes=[WebSocketRoute("/legacy/echo", echo), Route("/legacy/echo", lambda _: PlainTextResponse("plain"))])


async def test_an_applications_socket_needs_a_token_as_its_requests_do_and_knows_who_calls() -> None:
    async with serving(Service("legacy", database=None, app=LEGACY)) as legacy:
        refused = await legacy.refused("/legacy/echo")
        async with legacy.open("/legacy/echo", {**bearer("ada"), "x-atoll-subject": "forged"}, ("v1", "v2")) as socket:
            by_header = await socket.recv()
            await socket.send(b"x" * 5_000_000)
            assert await socket.recv() == b"x" * 5_000_000
        async with legacy.open("/legacy/echo", protocols=("bearer.bob", "v1")) as socket:
            by_protocol = await socket.recv()
            assert socket.subprotocol == "v1"

    assert refused.status_code == 401
    assert (by_header, by_protocol) == ("ada v1, v2", "bob v1")


async def test_a_public_applications_socket_is_its_own_affair() -> None:
    async with serving(Service("legacy", database=None, app=LEGACY, public=True)) as legacy:
        async with legacy.open("/legacy/echo", protocols=("bearer.bob",)) as socket:
            assert await socket.recv() == "None bearer.bob"
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{legacy.port}/legacy/echo")).text == "plain"
