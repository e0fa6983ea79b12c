"""What a service counts on its HTTP server for, asked byte by byte: order, framing, ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httptools
import pytest

from atoll.service.server import Server
from tests.support.waiting import until

Ask = Callable[..., Awaitable[bytes]]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Method, path and body of the request."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    text = f"{scope['method']} {scope['path']} ".encode() + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[tuple[Server, Any]]:
    """The server, and what opens a connection to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = Server(app, **options)
        await server.start(listener)
        writers: list[asyncio.StreamWriter] = []

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            return reader, writer

        try:
            yield server, connect
        finally:
            await server.stop(1.0)
            for writer in writers:
                writer.close()


class Answers:
    """Reads answers as a strict parser does."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._headers: dict[str, str] = {}
        self.ready: list[tuple[int, dict[str, str], bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.ready.append((self._parser.get_status_code(), self._headers, self._body))
        self._headers, self._body = {}, b""

    async def next(self) -> tuple[int, dict[str, str], bytes]:
        while not self.ready:
            data = await asyncio.wait_for(self._reader.read(65_536), 5)
            assert data, "the connection ended before its answer"
            self._parser.feed_data(data)
        return self.ready.pop(0)


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with serving(echo) as (_, connect):
        reader, writer = await connect()
        answers = Answers(reader)
        for number in range(3):
            writer.write(b"POST /a%%20b/%d?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" % number)
            status, headers, body = await answers.next()
            assert (status, body) == (200, b"POST /a b/%d hi" % number)
            assert headers["date"].endswith("GMT")
            assert "connection" not in headers


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    gate = asyncio.Event()

    async def slow_first(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/0":
            await gate.wait()
        await echo(scope, receive, send)

    async with serving(slow_first) as (_, connect):
        reader, writer = await connect()
        writer.write(b"".join(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n." % n for n in range(5)))
        gate.set()
        answers = Answers(reader)
        assert [(await answers.next())[2] for _ in range(5)] == [b"POST /%d ." % n for n in range(5)]


async def test_a_pipelined_body_that_comes_late_is_read() -> None:
    async with serving(echo) as (_, connect):
        reader, writer = await connect()
        answers = Answers(reader)
        writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
        assert (await answers.next())[2] == b"GET /a "
        writer.write(b"late")
        assert (await answers.next())[2] == b"POST /b late"


async def test_the_answer_to_head_has_headers_and_no_body() -> None:
    async with serving(echo) as (_, connect):
        reader, writer = await connect()
        writer.write(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        first, _, rest = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
        assert b"content-length: 7" in first
        assert rest.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_an_answer_leaves_whole_so_that_a_killed_process_leaves_none_cut() -> None:
    nothing_yet: list[bool] = []
    connection: list[socket.socket] = []

    async def looks_between(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        with pytest.raises(BlockingIOError):
            connection[0].recv(1)
        nothing_yet.append(True)
        await send({"type": "http.response.body", "body": b"body"})

    async with serving(looks_between) as (_, connect):
        reader, writer = await connect()
        connection.append(writer.get_extra_info("socket")._sock)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await Answers(reader).next())[2] == b"body"
    assert nothing_yet == [True]


async def test_the_head_of_a_stream_does_not_wait_for_its_first_part() -> None:
    head_came = asyncio.Event()

    async def streams(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await head_came.wait()
        await send({"type": "http.response.body", "body": b"HTTP/1.1 is not only a head", "more_body": True})
        await send({"type": "http.response.body", "body": b"."})

    async with serving(streams) as (_, connect):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"chunked" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        head_came.set()
        assert await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5) == (
            b"1b\r\nHTTP/1.1 is not only a head\r\n1\r\n.\r\n0\r\n\r\n"
        )


async def test_a_client_that_waits_for_permission_to_send_gets_it() -> None:
    async with serving(echo) as (_, connect):
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await Answers(reader).next())[2] == b"POST / ok"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nna me: x\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
async def test_what_is_not_http_is_refused_and_the_connection_ends(sent: bytes, status: int) -> None:
    async with serving(echo) as (_, connect):
        reader, writer = await connect()
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 %d " % status)


async def test_who_goes_away_is_noticed_by_whoever_listens() -> None:
    heard: list[str] = []

    async def listens(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (message := await receive())["type"] != "http.disconnect":
            continue
        heard.append(message["type"])
        await send({"type": "http.response.body", "body": b"to nobody"})

    async with serving(listens) as (_, connect):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await until(lambda: heard == ["http.disconnect"], timeout_s=5)


@pytest.mark.parametrize("body", [b"short", b"much too long"])
async def test_a_body_of_the_wrong_length_is_not_taken_for_a_whole_one(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def lies(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": body})

    async with serving(lies) as (_, connect):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        with suppress(ConnectionError):
            received = await asyncio.wait_for(reader.read(), 5)
        assert len(received.partition(b"\r\n\r\n")[2]) < 9


async def test_a_silent_connection_is_closed() -> None:
    async with serving(echo, keep_alive_s=0.05) as (_, connect):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await Answers(reader).next()
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_stopping_closes_idle_connections_and_finishes_requests_in_hand() -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await gate.wait()
        await echo(scope, receive, send)

    async with serving(slow) as (server, connect):
        idle, _ = await connect()
        reader, writer = await connect()
        writer.write(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
        stopping = asyncio.create_task(server.stop(5.0))
        assert await asyncio.wait_for(idle.read(), 5) == b""
        gate.set()
        _, headers, body = await Answers(reader).next()
        assert (headers["connection"], body) == ("close", b"GET /late ")
        await stopping


async def test_what_does_not_finish_in_time_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    begun = asyncio.Event()

    async def never(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with serving(never) as (server, connect):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
        await server.stop(0.05)
        assert (await Answers(reader).next())[0] == 500
    assert "timeout graceful shutdown exceeded" in caplog.text
