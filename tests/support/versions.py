"""A service in the test's own process whose answers the test chooses, to be compared with another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.ports import free_port

__all__ = ["Asked", "Reply", "Version", "versions"]


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """`chunks` is a body in pieces, without a length. It is given when `when` is set."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunks: tuple[bytes, ...] = ()
    when: asyncio.Event | None = None

    def written(self, method: str) -> bytes:
        own = {"transfer-encoding": "chunked"} if self.chunks else {"content-length": str(len(self.body))}
        if self.status == 304:
            own = {}
        lines = [f"HTTP/1.1 {self.status} X", *(f"{name}: {value}" for name, value in {**own, **self.headers}.items())]
        head = "\r\n".join([*lines, "", ""]).encode()
        if method == "HEAD":
            return head
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (*self.chunks, b""))
        return head + (pieces if self.chunks else self.body)


@dataclass
class Version:
    """`answer` says what comes back, `seen` is what was asked, health checks left out."""

    answer: Callable[[Asked], Reply] = lambda _asked: Reply()
    seen: list[Asked] = field(default_factory=list)
    port: int = field(default_factory=free_port)
    _serving: set[asyncio.Task[Any]] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server = field(init=False)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def expect(self, answer: Callable[[Asked], Reply] | Reply) -> None:
        """Forgets what was, and answers like this from now on."""
        self.seen.clear()
        self.answer = answer if callable(answer) else lambda _asked: answer

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Nothing listens any more and every connection is cut."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._serving)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        self._writers.add(writer)
        task.add_done_callback(self._serving.discard)
        with suppress(OSError, asyncio.IncompleteReadError):
            while asked := await _read(reader):
                await self._handle(asked, writer)
        self._writers.discard(writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _handle(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        reply = Reply() if asked.path.startswith("/health/") else self.answer(asked)
        if not asked.path.startswith("/health/"):
            self.seen.append(asked)
        if reply.when:
            await reply.when.wait()
        writer.write(reply.written(asked.method))
        await writer.drain()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _version = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await _chunks(reader) if "chunked" in headers.get("transfer-encoding", "") else b""
    body += await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    found = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        found += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return found


@asynccontextmanager
async def versions(count: int) -> AsyncIterator[list[Version]]:
    """So many that listen."""
    found = [Version() for _ in range(count)]
    for one in found:
        await one.start()
    try:
        yield found
    finally:
        for one in found:
            await one.stop()
