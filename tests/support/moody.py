"""A replica in the test's own process that does with each request what the test has told it, and remembers all it got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support.ports import free_port

__all__ = ["Mood", "Moody", "moody"]

Mood = Literal["answer", "refuse", "cut", "hang"]
_ANSWERS = {
    "answer": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "refuse": b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno",
}


@dataclass
class Moody:
    """`moods` are for the next requests, one each; afterwards it answers. `seen` are request lines with their headers."""

    moods: list[Mood] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    port: int = field(default_factory=free_port)
    _serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = field(default_factory=dict)
    _server: asyncio.Server = field(init=False)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def expect(self, *moods: Mood) -> None:
        """Forgets what was, and is ready for the next requests."""
        self.moods[:] = moods
        self.seen.clear()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Nothing listens any more and every connection is cut. Idempotent."""
        self._server.close()
        self.cut_all()
        await asyncio.gather(*self._serving)
        self._serving.clear()
        await self._server.wait_closed()

    def cut_all(self) -> None:
        """Every connection that is there ends, with whatever hangs on it. It still listens."""
        for writer in self._serving.values():
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self._serving[task] = writer
        with suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._handle(head.decode("latin-1"), writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _handle(self, head: str, writer: asyncio.StreamWriter) -> None:
        if head.startswith("GET /health/"):
            writer.write(_ANSWERS["answer"])
            return
        self.seen.append(head)
        mood = self.moods.pop(0) if self.moods else "answer"
        if mood in _ANSWERS:
            writer.write(_ANSWERS[mood])
        elif mood == "cut":
            writer.transport.abort()


@asynccontextmanager
async def moody() -> AsyncIterator[Moody]:
    """One that listens."""
    found = Moody()
    await found.start()
    try:
        yield found
    finally:
        await found.stop()
