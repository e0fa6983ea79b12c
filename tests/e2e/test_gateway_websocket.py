"""WebSockets: for operations that say so and for the fallback, with a token like any other request, and nowhere else."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from tests.support.gateway import Rig, contract, gateway, known, replica
from tests.support.raw import exchange
from tests.support.tokens import Mint
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MINT = Mint()
SOCKET: dict[str, Any] = {"x-atoll-upgrade": "websocket"}
CHAT = contract(
    "chat",
    {
        "/chat/rooms/{id}": {"get": {"operationId": "room", "security": [{"token": ["chat:join"]}], **SOCKET}},
        "/chat/open": {"get": {"operationId": "open", "security": [], **SOCKET}},
        "/chat/plain": {"get": {"operationId": "plain", "security": []}},
    },
)
LEGACY = contract("legacy", {})
CHATTER = {"authorization": f"Bearer {MINT.lasting('ada', 'chat:join')}"}


@dataclass
class Chat:
    rig: Rig
    arrived: list[Request]

    def join(self, path: str, headers: dict[str, str] | None = None, protocols: tuple[str, ...] = ()) -> connect:
        url = f"ws://127.0.0.1:{self.rig.listener.port}{path}"
        offered = [Subprotocol(one) for one in protocols] or None
        return connect(url, additional_headers=headers, subprotocols=offered, max_size=None, proxy=None)


@asynccontextmanager
async def _server(arrived: list[Request]) -> AsyncIterator[str]:
    """Echoes, and answers whatever is no upgrade with 200."""

    async def echo(socket: ServerConnection) -> None:
        arrived.append(socket.request)  # type: ignore[arg-type]
        async for message in socket:
            if message == "leave":
                await socket.close(4001, "as you wish")
            await socket.send(message)

    def plain(connection: ServerConnection, request: Request) -> Response | None:
        return None if "upgrade" in request.headers else connection.respond(HTTPStatus.OK, "")

    def chosen(_socket: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return next((one for one in offered if not one.startswith("bearer.")), None)

    async with serve(echo, "127.0.0.1", 0, process_request=plain, select_subprotocol=chosen, max_size=None) as server:
        yield f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chat(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chat]:
    arrived: list[Request] = []
    async with _server(arrived) as address:
        replicas = (replica(CHAT, "chat-1", address), replica(LEGACY, "legacy-1", address))
        what = known(CHAT, LEGACY, replicas=replicas, fallback="legacy", compression=True)
        async with gateway(tmp_path_factory.mktemp("websocket"), what, MINT) as rig:
            yield Chat(rig, arrived)


async def test_messages_go_both_ways_and_the_service_knows_who_speaks(chat: Chat) -> None:
    async with chat.join("/chat/rooms/7?since=3", CHATTER) as socket:
        for message in ("hello", b"\x00\xff", "x" * 70_000):
            await socket.send(message)
            assert await socket.recv() == message

    request = chat.arrived[-1]
    assert request.path == "/chat/rooms/7?since=3"
    assert request.headers["x-atoll-subject"] == "ada"


async def test_a_socket_may_carry_more_than_any_body(chat: Chat) -> None:
    message = b"x" * 400_000
    async with chat.join("/chat/open") as socket:
        for _ in range(6):
            await socket.send(message)
            assert await socket.recv() == message


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/chat/rooms/7", {}, 401),
        ("/chat/rooms/7", {"authorization": "Bearer x"}, 401),
        ("/chat/rooms/7", {"authorization": f"Bearer {MINT.lasting(scope='')}"}, 403),
        ("/chat/plain", {}, 403),
        ("/openapi.json", {}, 403),
        ("/chat/nothing", {}, 403),
    ],
)
async def test_who_may_not_is_told_before_anything_is_upgraded(
    chat: Chat, path: str, headers: dict[str, str], status: int
) -> None:
    before = len(chat.arrived)
    with pytest.raises(InvalidStatus) as refused:
        await _joined(chat, path, headers)

    assert refused.value.response.status_code == status
    assert len(chat.arrived) == before


async def test_an_upgrade_where_none_is_taken_is_refused_with_the_reason(chat: Chat) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await _joined(chat, "/chat/plain", {})

    told = json.loads(refused.value.response.body or b"{}")
    assert told["detail"] == "This operation takes no upgrade to another protocol"
    assert "x-atoll-upgrade" in told["hint"]
    line = await chat.rig.logged(told["request_id"])
    assert line["why"] == "the operation takes no upgrade to another protocol"


async def _joined(chat: Chat, path: str, headers: dict[str, str]) -> None:
    async with chat.join(path, headers):
        raise AssertionError("it was upgraded")


UPGRADE = (
    b"GET /chat/open HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
# Two frames of one message, masked with zeros, with line ends in it that no request may have; and the answer.
FRAMES, ECHO = b"\x01\x83\0\0\0\0a\nb" + b"\x80\x83\0\0\0\0\rc\n", b"\x81\x06a\nb\rc\n"


@pytest.mark.parametrize("cut", [0, 1, 2, 9, 10], ids=lambda cut: f"after {cut} bytes")
async def test_frames_are_not_read_as_requests_wherever_their_bytes_are_cut_in_two(chat: Chat, cut: int) -> None:
    before = await _bytes_read(chat)
    reader, writer = await asyncio.open_connection("127.0.0.1", chat.rig.listener.port)

    async def is_read() -> bool:
        return await _bytes_read(chat) >= before + len(UPGRADE) + cut

    try:
        writer.write(UPGRADE)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        writer.write(FRAMES[:cut])
        await until(is_read, what="Envoy to read the first part")
        writer.write(FRAMES[cut:])
        assert await reader.readexactly(len(ECHO)) == ECHO
    finally:
        writer.close()


async def _bytes_read(chat: Chat) -> int:
    """By Envoy, from all clients so far."""
    asked = b"GET /stats?filter=^http.atoll.downstream_cx_rx_bytes_total$ HTTP/1.1\r\nHost: a\r\n\r\n"
    (answer,) = await asyncio.to_thread(exchange, chat.rig.admin.port, asked, 1)
    return int(answer.body.split()[-1])


async def test_a_page_sends_its_token_as_a_protocol_because_it_can_set_no_header(chat: Chat) -> None:
    token = MINT.token(sub="ada", scope="chat:join")
    async with chat.join("/chat/rooms/7", protocols=("chat.v1", f"bearer.{token}")) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
        assert socket.subprotocol == "chat.v1"

    assert chat.arrived[-1].headers["x-atoll-subject"] == "ada"


@pytest.mark.parametrize("protocols", [("chat.v1",), ("chat.v1", "bearer.x"), ("bearer." + MINT.lasting(scope=""),)])
async def test_a_protocol_that_is_no_good_token_is_refused(chat: Chat, protocols: tuple[str, ...]) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with chat.join("/chat/rooms/7", protocols=protocols):
            raise AssertionError("it was upgraded")

    assert refused.value.response.status_code in (401, 403)


async def test_a_closing_service_is_heard_with_its_reason(chat: Chat) -> None:
    async with chat.join("/chat/open") as socket:
        await socket.send("leave")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")


async def test_the_fallback_may_upgrade_on_every_path_and_checks_its_callers_itself(chat: Chat) -> None:
    headers = {"cookie": "session=its-own", "authorization": "Basic YTpi"}
    async with chat.join("/anything/at/all", headers) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"

    request = chat.arrived[-1]
    assert (request.headers["cookie"], request.headers["authorization"]) == ("session=its-own", "Basic YTpi")


async def test_an_open_socket_outlives_changes_of_the_routes(chat: Chat) -> None:
    async with chat.join("/chat/open") as socket:
        await chat.rig.apply(known(CHAT, LEGACY, replicas=tuple(chat.rig.known.replicas.values()), fallback="legacy"))
        await socket.send("still there")
        assert await socket.recv() == "still there"
        await chat.rig.apply(known(CHAT, LEGACY, replicas=tuple(chat.rig.known.replicas.values()), fallback="legacy"))


async def test_an_open_socket_is_a_request_in_flight(chat: Chat) -> None:
    before = chat.rig.known
    system = before.system
    narrow = replace(system.services["chat"], concurrency=1)
    await chat.rig.apply(dataclasses.replace(before, system=replace(system, services={**system.services, "chat": narrow})))
    async with chat.join("/chat/open") as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
        with pytest.raises(InvalidStatus) as refused:
            await _joined(chat, "/chat/open", {})
    await chat.rig.apply(before)

    assert refused.value.response.status_code == 503


async def test_what_is_open_is_one_line_in_the_log_when_it_ends(chat: Chat) -> None:
    async with chat.join("/chat/open") as socket:
        await socket.send("hello")
        await socket.recv()
        request_id = _id(socket)

    line = await until(lambda: chat.rig.logged(request_id))
    assert (line["operation"], line["status"]) == ("chat.open", 101)


def _id(socket: ClientConnection) -> str:
    assert socket.response is not None
    return socket.response.headers["x-request-id"]
