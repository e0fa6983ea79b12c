"""One credential for each request: of two, nobody could say whose request it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio

from atoll.tokens.revocations import Revocations, RevokedShard, shard_of
from tests.support.gateway import Rig, contract, gateway, known, replica
from tests.support.tokens import Mint
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
MINT = Mint()
JOIN = [{"token": ["chat:join"]}]
CHAT = contract(
    "chat",
    {
        "/chat": {"get": {"operationId": "room", "security": JOIN, "x-atoll-upgrade": "websocket"}},
        "/chat/rooms": {"get": {"operationId": "rooms", "security": JOIN}},
        "/chat/sign-in": {"get": {"operationId": "sign_in", "security": []}},
    },
)
ENDED = "session-that-was-ended"
OWN = MINT.lasting("mallory", "chat:join", sid="good")
STOLEN = MINT.lasting("victim", "chat:join", sid=ENDED)
POOR = MINT.lasting("victim", "", sid="another")
SOCKET = (
    "connection: upgrade",
    "upgrade: websocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)


@dataclass
class Chat:
    rig: Rig
    arrived: list[str]

    async def join(self, *headers: str) -> int:
        return await self.ask("/chat", *SOCKET, *headers)

    async def ask(self, path: str, *headers: str) -> int:
        """The status."""
        return (await self.answer(path, *headers))[0]

    async def answer(self, path: str, *headers: str) -> tuple[int, str]:
        """Written by hand: clients put no header there twice."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.rig.listener.port)
        writer.write("\r\n".join([f"GET {path} HTTP/1.1", "host: localhost", *headers, "", ""]).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length")), 0)
        content = (await reader.readexactly(length)).decode()
        writer.close()
        return int(head.split()[1]), content


def authorization(token: str, scheme: str = "Bearer") -> str:
    return f"authorization: {scheme} {token}"


def protocol(*tokens: str) -> str:
    return "sec-websocket-protocol: " + ", ".join(f"bearer.{token}" for token in tokens)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chat(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chat]:
    arrived: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "upgrade: websocket" in head:
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        if "/health" not in head:
            arrived.append(head)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    ended = Revocations().updated(RevokedShard(shard_of(ENDED), 1, {ENDED: 9_999_999_999}))
    what = replace(known(CHAT, replicas=(replica(CHAT, "chat-1", address),)), revocations=ended)
    async with gateway(tmp_path_factory.mktemp("credentials"), what, MINT) as rig:
        found = Chat(rig, arrived)

        async def healthy() -> bool:
            return await found.join(authorization(OWN)) == 101

        await until(healthy)
        arrived.clear()
        yield found
    server.close()


@pytest.mark.parametrize(
    "headers",
    [
        (authorization(STOLEN), protocol(OWN)),
        (authorization(OWN), protocol(STOLEN)),
        (authorization(OWN), protocol(POOR)),
        (authorization(POOR), protocol(OWN)),
        (authorization(OWN), protocol(OWN)),
        (authorization(OWN), "sec-websocket-protocol: chat.v1", protocol(POOR)),
        (protocol(OWN, POOR),),
        (protocol(OWN), protocol(POOR)),
        (f"sec-websocket-protocol: xbearer.{OWN}, bearer.{POOR}",),
        (f"sec-websocket-protocol: xbearer.{OWN}",),
    ],
)
async def test_two_tokens_open_nothing_whatever_they_are(chat: Chat, headers: tuple[str, ...]) -> None:
    before = len(chat.arrived)
    status, content = await chat.answer("/chat", *SOCKET, *headers)
    assert (status, '"code":"two_credentials"' in content) == (400, True), content
    assert len(chat.arrived) == before


@pytest.mark.parametrize("headers", [(authorization(OWN),), (protocol(OWN),), ("sec-websocket-protocol: v1", protocol(OWN))])
async def test_one_token_opens_a_socket_for_one_person(chat: Chat, headers: tuple[str, ...]) -> None:
    assert await chat.join(*headers) == 101
    assert [line for line in chat.arrived[-1].split("\r\n") if line.startswith("x-atoll-subject")] == [
        "x-atoll-subject: mallory"
    ]


@pytest.mark.parametrize("token", [authorization(STOLEN), protocol(STOLEN)])
async def test_an_ended_session_opens_nothing(chat: Chat, token: str) -> None:
    assert await chat.join(token) == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
async def test_the_scheme_may_have_any_case(chat: Chat, scheme: str) -> None:
    assert await chat.ask("/chat/rooms", authorization(OWN, scheme)) == 200


@pytest.mark.parametrize(
    "headers",
    [
        ("authorization: Basic YTpi",),
        (f"authorization: Basic x,Bearer {OWN}",),
        (f"authorization: Basic Bearer {OWN}",),
        (f"authorization: {OWN}",),
        (f"authorization: Bearer {OWN}, Bearer {POOR}",),
        ("authorization: Basic YTpi", authorization(OWN)),
        (authorization(OWN), authorization(POOR)),
        ("authorization:",),
    ],
)
async def test_what_is_not_one_bearer_token_is_refused(chat: Chat, headers: tuple[str, ...]) -> None:
    before = len(chat.arrived)
    status, content = await chat.answer("/chat/rooms", *headers)
    assert (status, "Authorization is not `Bearer <token>`" in content) == (401, True), content
    assert len(chat.arrived) == before


async def test_where_no_token_is_needed_authorization_is_the_services_own(chat: Chat) -> None:
    assert await chat.ask("/chat/sign-in", "authorization: Basic YTpi") == 200
    assert "authorization: Basic YTpi" in chat.arrived[-1]
