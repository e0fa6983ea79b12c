"""What stays open is ended when its caller may not go on: WebSockets and streams, as a service's own server serves them."""

from __future__ import annotations

import asyncio
import socket as sockets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx
import msgspec
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from atoll import Principal, Service, WebSocket
from atoll.service.http import App, build_app
from atoll.service.injection import Injector
from atoll.service.server import Server, message_limit_bytes
from atoll.tokens import KeySet, Verifier
from tests.support.tokens import Mint
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
MINT, OTHER = Mint(), Mint()
_BOTH = KeySet.of([MINT.key.public, OTHER.key.public], version=1)


async def forever() -> AsyncIterator[bytes]:
    """As fast as it is read: a piece is so large that few of them fill the connection."""
    while True:
        yield b"data: %s\n\n" % (b"x" * 65_536)


NEWS: asyncio.Queue[bytes] = asyncio.Queue()


async def open_end() -> AsyncIterator[bytes]:
    """One piece, and then what is new, for one who listens."""
    yield b"data: 1\n\n"
    while True:
        yield await NEWS.get()


service = Service("desk", database=None)


@service.websocket("/desk/talk")
async def talk(socket: WebSocket, me: Principal) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(f"{me.id}: {text}")


@service.websocket("/desk/tell")
async def tell(socket: WebSocket) -> None:
    """Hears nothing, because it never listens."""
    await socket.accept()
    async for line in forever():
        await socket.send_text(line.decode())


@service.websocket("/desk/open", public=True)
async def anybody(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())


@service.get("/desk/events", streaming=True)
async def events() -> StreamingResponse:
    return StreamingResponse(open_end(), media_type="text/event-stream")


GATES: list[tuple[asyncio.Event, asyncio.Event]] = []


@service.get("/desk/late", streaming=True)
async def late() -> StreamingResponse:
    begun, go_on = GATES.pop()
    begun.set()
    await go_on.wait()
    return StreamingResponse(open_end(), media_type="text/event-stream")


@service.get("/desk/export", streaming=True)
async def export() -> StreamingResponse:
    return StreamingResponse(open_end(), media_type="text/plain")


async def _echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


async def _events(request: Request) -> StreamingResponse:
    return StreamingResponse(open_end(), media_type="text/event-stream")


MOUNTED = Starlette(routes=[WebSocketRoute("/old/talk", _echo), Route("/old/events", _events)])


@dataclass
class Desk:
    """One service process without a bus, and what it verifies tokens with."""

    port: int
    app: App
    verifier: Verifier

    def socket(self, path: str, token: str = "") -> connect:
        headers = {"authorization": f"Bearer {token}"} if token else None
        return connect(f"ws://127.0.0.1:{self.port}{path}", additional_headers=headers, proxy=None)

    @asynccontextmanager
    async def stream(self, path: str, token: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with httpx.AsyncClient(timeout=20) as http:
            headers = {"authorization": f"Bearer {token}"}
            async with http.stream("GET", f"http://127.0.0.1:{self.port}{path}", headers=headers) as answer:
                assert answer.status_code == 200
                pieces = answer.aiter_raw()
                await anext(pieces)
                yield pieces

    def end(self, *sessions: str) -> None:
        """As the feed does it."""
        self.verifier.refuse(frozenset(sessions))
        self.app.calls.end(frozenset(sessions))


@asynccontextmanager
async def serving(of: Service) -> AsyncIterator[Desk]:
    verifier = Verifier(MINT.issuer, MINT.audience, _BOTH)

    def verify(token: str) -> Principal:
        claims = verifier.verify(token, time.time())
        return Principal(claims.sub, claims.scopes, claims.sid, msgspec.structs.asdict(claims))

    injector = Injector(of)
    await injector.start()
    app = build_app(of, database=None, verify=verify, injector=injector)
    with sockets.create_server(("127.0.0.1", 0)) as listener:
        server = Server(app, message_limit_bytes=message_limit_bytes(of))
        await server.start(listener)
        yield Desk(listener.getsockname()[1], app, verifier)
        await server.stop(5.0)
    await injector.close()


@pytest_asyncio.fixture(loop_scope="module")
async def desk() -> AsyncIterator[Desk]:
    async with serving(service) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def old() -> AsyncIterator[Desk]:
    async with serving(Service("old", database=None, app=MOUNTED)) as running:
        yield running


async def over(socket: ClientConnection) -> tuple[int | None, str | None]:
    with suppress(ConnectionClosed):
        async with asyncio.timeout(10):
            async for _ in socket:
                pass
    return socket.close_code, socket.close_reason


async def said(socket: ClientConnection, text: str) -> str:
    await socket.send(text)
    return str(await socket.recv())


async def rest(pieces: AsyncIterator[bytes]) -> None:
    async with asyncio.timeout(10):
        async for _ in pieces:
            pass


@pytest.mark.parametrize("path", ["/desk/talk", "/desk/tell"])
async def test_a_socket_of_a_session_that_ends_is_closed_and_the_others_go_on(desk: Desk, path: str) -> None:
    """Whether its handler listens or only speaks."""
    mine, theirs = MINT.token("ada", sid="one"), MINT.token("ada", sid="two")
    async with desk.socket(path, mine) as socket, desk.socket("/desk/talk", theirs) as other:
        assert await said(other, "here") == "ada: here"
        desk.end("one")

        assert await over(socket) == (4401, "token_revoked")
        assert await said(other, "still") == "ada: still"


async def test_the_socket_of_a_token_that_has_expired_meanwhile_is_closed_with_its_session_too(desk: Desk) -> None:
    """Until then it goes on: how long is its handler's to say."""
    token = MINT.token("ada", sid="one", exp=int(time.time()) + 1)
    async with desk.socket("/desk/talk", token) as socket:
        expired_at = time.time() + 1.1
        await until(lambda: time.time() > expired_at)
        desk.app.calls.judge(desk.verifier)
        assert await said(socket, "still") == "ada: still"
        desk.end("one")
        assert await over(socket) == (4401, "token_revoked")


async def test_a_withdrawn_key_closes_what_was_opened_with_it(desk: Desk) -> None:
    async with desk.socket("/desk/talk", MINT.token()) as socket, desk.socket("/desk/talk", OTHER.token()) as other:
        assert await said(socket, "x") == await said(other, "x") == "user-1: x"
        desk.verifier.update(KeySet.of([OTHER.key.public], version=2))
        desk.app.calls.judge(desk.verifier)

        assert await over(socket) == (4401, "token_revoked")
        assert await said(other, "still") == "user-1: still"


async def test_a_socket_that_needs_no_token_is_nobodys(desk: Desk) -> None:
    async with desk.socket("/desk/open", MINT.token(sid="one")) as socket:
        desk.end("one")
        assert await said(socket, "still") == "still"


async def test_an_event_stream_of_a_session_that_ends_is_over(desk: Desk) -> None:
    one, two = MINT.token(sid="one"), MINT.token(sid="two")
    async with desk.stream("/desk/events", one) as pieces, desk.stream("/desk/events", two) as others:
        desk.end("one")
        await rest(pieces)
        for number in range(5):
            NEWS.put_nowait(b"data: %d\n\n" % number)
            assert await anext(others) == b"data: %d\n\n" % number


async def test_another_stream_is_cut_so_that_nobody_takes_it_for_whole(desk: Desk) -> None:
    async with desk.stream("/desk/export", MINT.token(sid="one")) as pieces:
        desk.end("one")
        with pytest.raises(httpx.RemoteProtocolError):
            await rest(pieces)


async def test_what_begins_after_its_session_has_ended_is_ended_too(desk: Desk) -> None:
    """The token was looked at before, and the handler took its time."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    GATES.append((begun, go_on))

    async def read() -> None:
        async with desk.stream("/desk/late", MINT.token(sid="one")) as pieces:
            await rest(pieces)

    reading = asyncio.create_task(read())
    await begun.wait()
    desk.end("one")
    go_on.set()
    await reading


async def test_sockets_and_event_streams_of_an_application_are_ended_likewise(old: Desk) -> None:
    token = MINT.token(sid="one")
    async with old.socket("/old/talk", token) as socket, old.stream("/old/events", token) as pieces:
        assert await said(socket, "here") == "here"
        old.end("one")

        assert await over(socket) == (4401, "token_revoked")
        await rest(pieces)


async def test_nothing_is_remembered_of_what_is_over(desk: Desk) -> None:
    async with desk.socket("/desk/talk", MINT.token(sid="one")) as socket:
        assert await said(socket, "x") == "user-1: x"
        assert desk.app.calls.count == 1
    await until(lambda: desk.app.calls.count == 0)
