"""A test's end of a WebSocket: in this process, straight to the service's application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, unquote

import httpx
from starlette.websockets import WebSocketDisconnect

__all__ = ["Socket", "opened"]

_LEAVE_S = 5.0


class Socket:
    """`protocol` is the one that the handler has chosen."""

    def __init__(self, app: Any, scope: Mapping[str, Any]) -> None:
        self._in: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._out: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._left = False
        self._in.put_nowait({"type": "websocket.connect"})
        self._handler = asyncio.ensure_future(app(scope, self._in.get, self._hear))
        self.protocol: str | None = None

    async def send(self, message: str | bytes) -> None:
        self._in.put_nowait({"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message})

    async def receive(self) -> str | bytes:
        """The next message. Raises Starlette's WebSocketDisconnect, with code and reason, when there comes none any more."""
        message = await self._next()
        if message["type"] == "websocket.close":
            code, reason = message.get("code", 1000), message.get("reason") or ""
            self._leave(code)
            raise WebSocketDisconnect(code, reason)
        text: str | None = message.get("text")
        return message["bytes"] if text is None else text

    async def _hear(self, message: dict[str, Any]) -> None:
        if self._left:
            raise ConnectionError("the client has left")
        self._out.put_nowait(message)

    async def _next(self) -> dict[str, Any]:
        """Raises what the application raises."""
        heard = asyncio.ensure_future(self._out.get())
        try:
            await asyncio.wait({heard, self._handler}, return_when=asyncio.FIRST_COMPLETED)
            if heard.done():
                return heard.result()
        finally:
            heard.cancel()
        self._handler.result()
        raise WebSocketDisconnect(1006, "the handler has ended")

    async def _open(self, url: str) -> None:
        message = await self._next()
        if message["type"] == "websocket.accept":
            self.protocol = message.get("subprotocol")
            return
        body = await self._next()
        request = httpx.Request("GET", url)
        answer = httpx.Response(message["status"], headers=message["headers"], content=body["body"], request=request)
        raise httpx.HTTPStatusError(f"{answer.status_code}, not upgraded: {answer.text}", request=request, response=answer)

    def _leave(self, code: int) -> None:
        if not self._left:
            self._left = True
            self._in.put_nowait({"type": "websocket.disconnect", "code": code, "reason": ""})

    async def _end(self) -> None:
        """A handler that does not notice that its client has left is cancelled."""
        self._leave(1000)
        await asyncio.wait({self._handler}, timeout=_LEAVE_S)
        self._handler.cancel()
        await asyncio.wait({self._handler})


@asynccontextmanager
async def opened(app: Any, path: str, headers: Mapping[str, str], protocols: Sequence[str]) -> AsyncIterator[Socket]:
    """Raises httpx.HTTPStatusError, with the answer, when it is refused."""
    socket = Socket(app, _scope(path, headers, protocols))
    try:
        await socket._open(f"ws://service{path}")
        yield socket
    finally:
        await socket._end()


def _scope(path: str, headers: Mapping[str, str], protocols: Sequence[str]) -> dict[str, Any]:
    path, _, query = path.partition("?")
    sent = {"host": "service", **headers, **({"sec-websocket-protocol": ", ".join(protocols)} if protocols else {})}
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "server": ("service", 80),
        "client": ("127.0.0.1", 0),
        "root_path": "",
        "path": unquote(path),
        "raw_path": quote(path, safe="/%:@!$&'()*+,;=~").encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "subprotocols": list(protocols),
        "extensions": {"websocket.http.response": {}},
    }
