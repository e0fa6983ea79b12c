"""How a process's health is asked. A probe returns when it is healthy; its caller limits the time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from atoll.host.ports import LOOPBACK
from atoll.host.processes import ProcessSpec

__all__ = ["answering", "healthy", "probe", "until_ready"]

_PAUSE_S = 0.005
_UNREADY_S = 0.02  # a process that says "not yet" is busy starting: don't add to that
_REQUEST = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def probe(spec: ProcessSpec) -> None:
    """As `spec.ready` says. "engine" has a probe of its own, which its module gives."""
    if spec.ready == "started" or spec.port is None:
        return
    if spec.ready == "tcp":
        await answering(spec.port)
    else:
        await healthy(spec.port)


async def until_ready(ready: Callable[[], Awaitable[bool]]) -> None:
    """Asks an engine's own question until it says yes."""
    while True:
        if await ready():
            return
        await asyncio.sleep(_PAUSE_S)


async def answering(port: int) -> None:
    """Something accepts connections."""
    while True:
        with contextlib.suppress(OSError):
            _reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.close()
            return
        await asyncio.sleep(_PAUSE_S)


async def healthy(port: int) -> None:
    """GET /health/ready says 200. The listening socket stands before its process does, so the first answer is the earliest."""
    while True:
        if await _status(port) == 200:
            return
        await asyncio.sleep(_UNREADY_S)


async def _status(port: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        try:
            writer.write(_REQUEST)
            return int((await reader.readline()).split()[1])
        finally:
            writer.close()
    return 0
