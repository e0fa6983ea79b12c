"""The HTTP/1.1 server of a service process: connections of one listening socket, an ASGI application behind them.

httptools parses (llhttp, the parser of Node.js). What stands here is what HTTP asks for around a parser: requests of a
connection in their order, bodies no faster than they are read, answers no faster than they are taken, an end in good order.
TLS, HTTP/2, WebSocket and the access log are the gateway's. Why not uvicorn: docs/decisions/0006-http-server.md.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools

__all__ = ["Server"]

Message = MutableMapping[str, Any]
App = Callable[[dict[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

_KEEP_ALIVE_S = 75.0  # longer than the gateway's, so that it is always the gateway that closes an idle connection
_HEAD_LIMIT_BYTES = 128 * 1024
_UNREAD_LIMIT_BYTES = 64 * 1024
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_BODYLESS = frozenset({204, 304})
_log = logging.getLogger("atoll.service")


class Server:
    """Serves `app` from `start` to `stop`."""

    def __init__(self, app: App, *, keep_alive_s: float = _KEEP_ALIVE_S) -> None:
        self.app = app
        self.keep_alive_s = keep_alive_s
        self.is_leaving = False
        self.connections: set[_Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self, loop), sock=listener, backlog=2048)

    async def stop(self, timeout_s: float) -> None:
        """Takes no further connection, closes idle ones, lets requests in hand finish; after `timeout_s` they are cancelled."""
        self.is_leaving = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close_when_idle()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=timeout_s)
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            _log.warning("%d requests were not finished within %g s", len(self.tasks), timeout_s)
            await asyncio.wait(self.tasks)
        for connection in list(self.connections):
            connection.transport.close()


class _Connection(asyncio.Protocol):
    """What the parser calls, and whose turn it is. `exchange` is being answered; later ones wait."""

    transport: asyncio.Transport

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._is_in_head = True
        self._is_deaf = False
        self._is_paused = False
        self._arriving: _Exchange | None = None
        self._waiting: deque[_Exchange] = deque()
        self._idle: asyncio.TimerHandle | None = None
        self._writable: asyncio.Event | None = None
        self.exchange: _Exchange | None = None

    # the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._client = _address(transport.get_extra_info("peername"))
        self._local = _address(transport.get_extra_info("sockname"))
        self._server.connections.add(self)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._stop_waiting()
        self.resume_writing()
        self._waiting.clear()
        self._parser = None  # it refers to this connection
        if self.exchange is not None:
            self.exchange.cut()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # nothing here can be upgraded to: it is answered as the request that it is
            self.on_message_complete()
            self._end_after_arrived()
        except httptools.HttpParserError as error:
            self._refuse(400, f"not HTTP: {error}")
        else:
            if self._is_in_head and self._head_bytes > _HEAD_LIMIT_BYTES:
                self._refuse(431, "the headers are too large")

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    async def writable(self) -> None:
        if self._writable is not None:
            await self._writable.wait()

    # the parser

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        scope = self._scope()
        keep_alive = scope["http_version"] != "1.0" and self._parser.should_keep_alive()
        exchange = self._arriving = _Exchange(self, scope, keep_alive)
        self._stop_waiting()
        self._is_in_head = False
        self._headers = []  # trailers are not headers
        if self.exchange is None:
            self._begin(exchange)
        else:
            self._waiting.append(exchange)
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        if self._arriving is not None and self._arriving.feed(body) > _UNREAD_LIMIT_BYTES:
            self.pause_reading()

    def on_message_complete(self) -> None:
        self._is_in_head = True
        self._head_bytes = 0
        if self._arriving is not None:
            self._arriving.feed_end()
            self._arriving = None

    def _scope(self) -> dict[str, Any]:
        url = httptools.parse_url(self._url)
        raw_path = url.path or b"/"
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": self._parser.get_http_version(),
            "method": self._parser.get_method().decode("ascii"),
            "scheme": "http",
            "server": self._local,
            "client": self._client,
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": url.query or b"",
            "headers": self._headers,
        }

    # turns

    def _begin(self, exchange: _Exchange) -> None:
        self.exchange = exchange
        task = self._loop.create_task(exchange.run(self._server.app))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def answered(self, keep_alive: bool) -> None:
        """The next one's turn, or the end."""
        self.exchange = None
        if not keep_alive:
            self.transport.close()
            return
        self.resume_reading()
        if self._waiting:
            self._begin(self._waiting.popleft())
        else:
            self._wait_for_head()

    def close_when_idle(self) -> None:
        if self.exchange is None:
            self.transport.close()
        else:
            self.exchange.keep_alive = False

    def _end_after_arrived(self) -> None:
        """What else comes on this connection is not read."""
        self._is_deaf = True
        last = self._waiting[-1] if self._waiting else self.exchange
        if last is None:
            self.transport.close()
        else:
            last.keep_alive = False

    def _refuse(self, status: int, why: str) -> None:
        """In its turn: answers before it are sent, and a body that broke off ends its own request."""
        if self._arriving is not None:
            self._arriving.cut()
        if self.exchange is None:
            head = _STATUS_LINES[status] + b"content-type: text/plain\r\nconnection: close\r\n"
            self.transport.write(head + b"content-length: %d\r\n\r\n%b" % (len(why), why.encode("ascii", "replace")))
        self._end_after_arrived()

    def pause_reading(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._is_paused and not self._waiting:
            self._is_paused = False
            self.transport.resume_reading()

    def _wait_for_head(self) -> None:
        self._idle = self._loop.call_later(self._server.keep_alive_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


class _Exchange:
    """One request and its answer: what ASGI calls receive and send."""

    __slots__ = (
        "_answered",
        "_body",
        "_connection",
        "_expects_continue",
        "_is_chunked",
        "_is_cut",
        "_is_read",
        "_missing_bytes",
        "_news",
        "_scope",
        "_started",
        "_unread_bytes",
        "keep_alive",
    )

    def __init__(self, connection: _Connection, scope: dict[str, Any], keep_alive: bool) -> None:
        self._connection = connection
        self._scope = scope
        self.keep_alive = keep_alive
        self._news = asyncio.Event()
        self._body: list[bytes] = []
        self._unread_bytes = 0
        self._is_read = self._is_cut = self._started = self._answered = self._is_chunked = False
        self._missing_bytes = 0
        self._expects_continue = any(name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"])

    async def run(self, app: App) -> None:
        try:
            await app(self._scope, self.receive, self.send)
        except Exception:
            _log.exception("%s %s failed outside of its handler", self._scope["method"], self._scope["path"])
        finally:
            await self._conclude()

    async def _conclude(self) -> None:
        """A client never waits for an answer that does not come."""
        if self._answered or self._connection.transport.is_closing():
            return
        self.keep_alive = False
        if self._started:
            self._connection.transport.abort()  # so that half an answer is not taken for a whole one
            return
        await self.send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]})
        await self.send({"type": "http.response.body"})

    # the request

    def feed(self, body: bytes) -> int:
        """How much of the body nobody has read yet."""
        if self._answered:
            return 0
        self._body.append(body)
        self._unread_bytes += len(body)
        self._news.set()
        return self._unread_bytes

    def feed_end(self) -> None:
        self._is_read = True
        self._news.set()

    def cut(self) -> None:
        """The rest of the request will not come."""
        self._is_cut = True
        self._news.set()

    async def receive(self) -> Message:
        if self._expects_continue and not self._started and not self._news.is_set():
            self._expects_continue = False
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._is_cut and not self._answered:
            self._connection.resume_reading()
            await self._news.wait()
        if self._is_cut or self._answered:
            return {"type": "http.disconnect"}
        self._news.clear()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._unread_bytes = 0
        return {"type": "http.request", "body": body, "more_body": not self._is_read}

    # the answer

    async def send(self, message: Message) -> None:
        """To somebody who has gone nothing is sent. Raises RuntimeError for what ASGI does not allow."""
        await self._connection.writable()
        if self._connection.transport.is_closing():
            return
        kind = message["type"]
        if kind == "http.response.start" and not self._started:
            self._connection.transport.write(self._head(message["status"], message.get("headers", ())))
            self._started = True
        elif kind == "http.response.body" and self._started and not self._answered:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind} was sent out of order")

    def _head(self, status: int, headers: Any) -> bytes:
        head = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        length: int | None = None
        has_date = False
        for name, value in headers:
            name = name.lower()
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                self.keep_alive = self.keep_alive and value.lower() != b"close"
                continue
            elif name == b"transfer-encoding":
                continue
            elif name == b"date":
                has_date = True
            head.append(b"%b: %b\r\n" % (name, value))
        if not has_date:
            head.append(_date_line(int(time.time())))
        self._frame(status, length, head)
        block = b"".join(head)
        if block.count(b"\n") != len(head) or block.count(b"\r") != len(head):
            raise RuntimeError("a header of the answer has a line break in it")
        return block + b"\r\n"

    def _frame(self, status: int, length: int | None, head: list[bytes]) -> None:
        """How the client knows where the body ends (RFC 9112 §6.3)."""
        if self._scope["method"] == "HEAD" or status in _BODYLESS:
            length = 0
        self._is_chunked = length is None and self._scope["http_version"] != "1.0"
        if self._is_chunked:
            head.append(b"transfer-encoding: chunked\r\n")
        elif length is None:
            self.keep_alive = False
        self._missing_bytes = -1 if length is None else length
        if not self.keep_alive:
            head.append(b"connection: close\r\n")

    def _send_body(self, body: bytes, more: bool) -> None:
        write = self._connection.transport.write
        if self._is_chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            write(chunk if more else chunk + b"0\r\n\r\n")
        elif self._missing_bytes < 0:
            write(body)
        elif self._scope["method"] != "HEAD":
            self._missing_bytes -= len(body)
            if self._missing_bytes < 0 or (self._missing_bytes and not more):
                raise RuntimeError("the body of the answer is not as long as its content-length says")
            write(body)
        if not more:
            self._answered = True
            self._news.set()
            self._connection.answered(self.keep_alive)


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_last_date = (0, b"")


def _date_line(now_s: int) -> bytes:
    """Made once a second (RFC 9110 §5.6.7)."""
    global _last_date
    if _last_date[0] != now_s:
        at = time.gmtime(now_s)
        day, month = _DAYS[at.tm_wday], _MONTHS[at.tm_mon - 1]
        text = f"date: {day}, {at.tm_mday:02} {month} {at.tm_year} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT\r\n"
        _last_date = (now_s, text.encode())
    return _last_date[1]


def _address(found: Any) -> tuple[str, int] | None:
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None
