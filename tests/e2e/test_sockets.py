"""WebSockets of Python services and a gRPC server, behind the gateway of a whole system."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest
import pytest_asyncio
from msgspec import json
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.support.system import RunningSystem, running, system
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Sockets:
    system: RunningSystem
    tokens: dict[str, str]

    @property
    def address(self) -> str:
        return self.system.url.removeprefix("http://")

    def open(self, path: str, user: str = "", *, protocols: tuple[str, ...] = (), cookie: str = "") -> connect:
        """At the gateway, with the token of `user`."""
        headers = {**(self.bearer(user) if user else {}), **({"cookie": cookie} if cookie else {})}
        offered = [Subprotocol(one) for one in protocols] or None
        url = f"ws://{self.address}{path}"
        return connect(url, additional_headers=headers, subprotocols=offered, max_size=None, proxy=None)

    def bearer(self, user: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[user]}"}

    async def refused(self, path: str, user: str = "") -> int:
        """The status instead of an upgrade."""
        with pytest.raises(InvalidStatus) as refused:
            async with self.open(path, user):
                raise AssertionError("it was upgraded")
        return refused.value.response.status_code


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sockets]:
    with running("sockets", tmp_path_factory.mktemp("sockets") / "sockets") as system:
        yield Sockets(system, {user: system.must("token", user).strip() for user in ("ann", "bob")})


async def end(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Code and reason of the close that comes, whatever comes before."""
    with suppress(ConnectionClosed):
        async with asyncio.timeout(60):
            async for _ in socket:
                pass
    return socket.close_code, socket.close_reason


async def said(socket: ClientConnection, text: str) -> Any:
    await socket.send(text)
    return json.decode(await socket.recv())


async def test_what_is_said_is_kept_and_comes_back(sockets: Sockets) -> None:
    room = f"/chat/rooms/{uuid4()}"
    async with sockets.open(room, "ann") as socket:
        assert [(await said(socket, text))["number"] for text in ("hello", "is anybody there?")] == [1, 2]

    async with httpx.AsyncClient(base_url=sockets.system.url, headers=sockets.bearer("ann"), timeout=15) as http:
        kept = (await http.get(f"{room}/messages")).json()
    assert [one["text"] for one in kept] == ["hello", "is anybody there?"]


async def test_a_token_with_the_scope_is_needed_and_a_good_path(sockets: Sockets) -> None:
    room = f"/chat/rooms/{uuid4()}"

    assert await sockets.refused(room) == 401
    assert await sockets.refused(room, "bob") == 403
    assert await sockets.refused("/chat/rooms/kitchen", "ann") == 422
    assert await sockets.refused(f"{room}/messages", "ann") == 403, "it takes no upgrade"


async def test_a_page_sends_its_token_as_a_protocol(sockets: Sockets) -> None:
    protocols = ("chat.v1", f"bearer.{sockets.tokens['ann']}")
    async with sockets.open(f"/chat/rooms/{uuid4()}", protocols=protocols) as socket:
        assert (await said(socket, "hello"))["text"] == "hello"
        assert socket.subprotocol == "chat.v1"


async def test_the_reason_of_a_close_arrives(sockets: Sockets) -> None:
    async with sockets.open(f"/chat/rooms/{uuid4()}", "ann") as socket:
        await socket.send("/leave")
        assert await end(socket) == (4000, "as you wish")
    async with sockets.open(f"/chat/rooms/{uuid4()}", "ann") as socket:
        await socket.send("/dance")
        assert await end(socket) == (4404, "not_found")


async def test_a_public_one_needs_no_token_and_takes_messages_up_to_its_limit(sockets: Sockets) -> None:
    async with sockets.open("/chat/echo") as socket:
        await socket.send(b"x" * 1000)
        assert await socket.recv() == b"x" * 1000
        await socket.send(b"x" * 1001)
        assert await end(socket) == (1009, "a message is larger than 1,000 bytes")


async def test_a_plain_request_is_told_to_upgrade(sockets: Sockets) -> None:
    async with httpx.AsyncClient(base_url=sockets.system.url, timeout=15) as http:
        assert (await http.get("/chat/echo")).status_code == 426


async def test_an_application_takes_sockets_and_requests_on_one_path_with_the_same_token(sockets: Sockets) -> None:
    assert await sockets.refused("/legacy/talk") == 401
    async with httpx.AsyncClient(base_url=sockets.system.url, headers=sockets.bearer("bob"), timeout=15) as http:
        page = await http.get("/legacy/talk")
    async with sockets.open("/legacy/talk", protocols=("v1", f"bearer.{sockets.tokens['bob']}")) as socket:
        assert await socket.recv() == page.text
        await socket.send("hello")
        assert await socket.recv() == "HELLO"
        assert socket.subprotocol == "v1"


async def test_a_public_application_checks_its_callers_itself(sockets: Sockets) -> None:
    assert await sockets.refused("/free/talk") == 403
    async with sockets.open("/free/talk", cookie="session=its-own") as socket:
        await socket.send("hello")
        assert await socket.recv() == "HELLO"


async def test_nothing_times_an_open_socket(sockets: Sockets) -> None:
    """Neither as a whole nor while it is idle."""
    shown = json.decode(sockets.system.must("gateway", "show", "--json"))
    timed = [one["timeout_s"] for one in routes(shown) if one["websocket"]]
    assert len(timed) == 6
    assert set(timed) == {None}


def routes(shown: Any) -> Iterator[dict[str, Any]]:
    """Wherever they stand."""
    if isinstance(shown, dict):
        if "websocket" in shown:
            yield shown
        for one in shown.values():
            yield from routes(one)
    elif isinstance(shown, list):
        for one in shown:
            yield from routes(one)


async def test_a_restart_tells_open_sockets_that_it_is_one_and_takes_them_again(sockets: Sockets) -> None:
    async with sockets.open("/chat/echo") as chat, sockets.open("/legacy/talk", "bob") as legacy:
        await chat.send(b"still there")
        assert await chat.recv() == b"still there"
        sockets.system.must("restart", "chat")
        sockets.system.must("restart", "legacy")
        assert [(await end(one))[0] for one in (chat, legacy)] == [1012, 1012]

    async def back() -> bool:
        with suppress(InvalidStatus):
            async with sockets.open("/chat/echo") as again:
                await again.send(b"hello")
                return await again.recv() == b"hello"
        return False

    assert await until(back, 30)


async def test_a_session_that_ends_takes_its_open_sockets_and_streams_with_it_within_a_second(sockets: Sockets) -> None:
    """Through the gateway; those of the same person's other sessions go on."""
    token = sockets.system.must("token", "ann").strip()
    mine = Sockets(sockets.system, {"ann": token})
    async with (
        mine.open(f"/chat/rooms/{uuid4()}", "ann") as socket,
        mine.open("/legacy/talk", "ann") as old,
        sockets.open(f"/chat/rooms/{uuid4()}", "ann") as other,
        httpx.AsyncClient(base_url=sockets.system.url, timeout=30) as http,
        http.stream("GET", "/chat/ticks", headers=mine.bearer("ann")) as stream,
    ):
        ticks = stream.aiter_raw()
        assert await anext(ticks)
        assert (await said(socket, "here"))["number"] == 1
        assert (await http.post("/auth/revoke", data={"token": token})).status_code == 200
        began = time.monotonic()
        async for _ in ticks:
            pass
        await until(lambda: all(one.protocol.close_rcvd for one in (socket, old)), what="both are told")
        took_s = time.monotonic() - began
        ends = [await end(one) for one in (socket, old)]  # Envoy gives a client a second more to close its connection

        assert ends == [(4401, "token_revoked")] * 2
        assert took_s < 1
        assert (await said(other, "still here"))["number"] == 1


async def test_without_the_package_up_says_what_to_install(tmp_path: Path) -> None:
    with system("sockets", tmp_path / "sockets") as bare:
        file = bare.folder / "services/chat/chat/service.py"
        file.write_text(f"import sys\nsys.modules['websockets'] = None\n{file.read_text()}")
        refused = bare.run("up", "--detach", "--isolated")

    assert refused.returncode != 0
    said = r"chat/service\.py:\d+: WebSockets need the package websockets, which is not installed"
    assert re.search(said, refused.stderr), refused.stderr
    assert "pip install 'atoll[websocket]'" in refused.stderr


# gRPC


@pytest_asyncio.fixture(loop_scope="module")
async def channel(sockets: Sockets) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(sockets.address) as channel:
        yield channel


async def test_a_grpc_server_is_called_through_the_gateway_by_whoever_may(sockets: Sockets, channel: Any) -> None:
    ask = channel.unary_unary("/shop.Stock/Count")
    tokens = {user: tuple(sockets.bearer(user).items()) for user in ("ann", "bob")}

    call = ask(b"mug", metadata=tokens["ann"])
    assert await call == b"12 of mug"
    assert dict(await call.trailing_metadata())["x-counted-for"]
    refusals = [((), "UNAUTHENTICATED"), (tokens["bob"], "PERMISSION_DENIED")]
    for request, metadata, status in [(b"mug", *one) for one in refusals] + [(b"nothing", tokens["ann"], "NOT_FOUND")]:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await ask(request, metadata=metadata)
        assert failed.value.code().name == status


async def test_a_grpc_conversation_goes_both_ways(channel: Any) -> None:
    talk = channel.stream_stream("/shop.Stock/Watch")()
    for word in (b"a", b"b"):
        await talk.write(word)
        assert await talk.read() == word.upper()
    await talk.done_writing()

    assert await talk.code() is grpc.StatusCode.OK
