"""What others may ask of a gateway in a container: whether it is ready, and its metrics. Nothing else of Envoy's admin port.

The admin port itself can stop Envoy and shows its configuration, so it listens inside its container only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from atoll.engines import envoy
from atoll.gateway.admin import Admin
from atoll.gateway.ir import Endpoint
from atoll.telemetry.metrics import MEDIA_TYPE, Family, text

__all__ = ["Told", "exposed"]


_ASKING_S = 5.0
_HEAD_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Told:
    """What the controller tells: metrics beside Envoy's, and whether all that the bus knows was in use once."""

    beside: Callable[[], Iterable[Family]]
    whole: Callable[[], bool]


@asynccontextmanager
async def exposed(admin: Admin, at: Endpoint, told: Told) -> AsyncIterator[None]:
    """`GET /metrics`, Envoy's and those beside, and `GET /ready` at that address, until the end of the block. Raises OSError
    when it is taken.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_ASKING_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_message(*await _answer(admin, told, head.split(b"\r\n")[0])))
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, at.host, at.port, limit=_HEAD_BYTES):
        yield


async def _answer(admin: Admin, told: Told, line: bytes) -> tuple[str, bytes]:
    words = line.split(b" ")
    if len(words) != 3 or words[0] != b"GET":
        return "405 Method Not Allowed", b"GET only\n"
    if words[1] == b"/ready":
        return await _readiness(admin, told)
    if words[1] == b"/metrics":
        found = await admin.metrics()
        if found is None:
            return "503 Service Unavailable", b"Envoy does not answer\n"
        return "200 OK", found + text(told.beside(), {}).encode()
    return "404 Not Found", b"/metrics and /ready\n"


async def _readiness(admin: Admin, told: Told) -> tuple[str, bytes]:
    """Envoy alone answers 404 to everything, and would be sent the requests of a gateway that knows better."""
    if not await envoy.ready(admin.endpoint.host, admin.endpoint.port):
        return "503 Service Unavailable", b"Envoy is not ready\n"
    if not told.whole():
        return "503 Service Unavailable", b"the bus has not told yet what there is\n"
    return "200 OK", b"ready\n"


def _message(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
