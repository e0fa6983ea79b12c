"""Rooms that one talks in. What is said is kept, a short transaction for each message."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from msgspec import Struct, json
from starlette.responses import StreamingResponse

from atoll import NotFound, Principal, Service, WebSocket
from atoll.sqlite import Database, Transaction


class Message(Struct):
    number: int
    author: str
    text: str


service = Service("chat", database="sqlite")


@service.websocket("/chat/rooms/{id}", scope="chat:join")
async def room(socket: WebSocket, id: UUID, me: Principal, database: Database) -> None:
    """Keeps every message, and sends it back with its number."""
    await socket.accept(subprotocol="chat.v1" if "chat.v1" in socket["subprotocols"] else None)
    async for text in socket.iter_text():
        if text == "/leave":
            await socket.close(4000, "as you wish")
            return
        if text.startswith("/"):
            raise NotFound(f"there is no command {text}")
        async with database.transaction() as tx:
            message = await keep(tx, id, me, text)
        await socket.send_text(json.encode(message).decode())


async def keep(tx: Transaction, room: UUID, me: Principal, text: str) -> Message:
    return await tx.one(
        Message,
        "INSERT INTO message (room, number, author, text) "
        "SELECT $1, 1 + count(*), $2, $3 FROM message WHERE room = $1 RETURNING number, author, text",
        room,
        me.id,
        text,
    )


@service.get("/chat/rooms/{id}/messages", scope="chat:join")
async def messages(id: UUID, tx: Transaction) -> list[Message]:
    return await tx.all(Message, "SELECT number, author, text FROM message WHERE room = $1 ORDER BY number", id)


@service.get("/chat/ticks", scope="chat:join", streaming=True)
async def ticks() -> StreamingResponse:
    return StreamingResponse(_ticks(), media_type="text/event-stream")


async def _ticks() -> AsyncIterator[bytes]:
    """One, and then it stays open."""
    yield b"data: tick\n\n"
    await asyncio.Event().wait()


@service.websocket("/chat/echo", public=True, message_limit_bytes=1000)
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    while True:
        await socket.send_bytes(await socket.receive_bytes())
