"""When a system has settled: nothing waits in an outbox or for a consumer. Dead letters are reported, not awaited."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from atoll.errors import BusOutage
from atoll.host.ports import LOOPBACK
from atoll.host.replicas import Replicas

__all__ = ["Unsettled", "backlog", "settle"]

_PAUSE_S = 0.02
_REQUEST = b"GET /health/backlog HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

Lag = Callable[[], Awaitable[dict[str, int]]]


class Unsettled(Exception):
    """What still waits, for a person."""


async def settle(lag: Lag, replicas: Replicas, timeout_s: float) -> dict[str, int]:
    """Returns when two looks one after the other found nothing waiting; the number of dead letters by service.

    Two, because an event that is handled between outbox and stream is in neither for a moment. Raises Unsettled.
    """
    end = time.monotonic() + timeout_s
    calm = 0
    while True:
        waiting, dead = await _look(lag, replicas)
        calm = 0 if waiting else calm + 1
        if calm == 2:
            return dead
        if time.monotonic() > end:
            raise Unsettled(", ".join(f"{name}: {count}" for name, count in waiting.items()))
        if waiting:
            await asyncio.sleep(_PAUSE_S)


async def _look(lag: Lag, replicas: Replicas) -> tuple[dict[str, int], dict[str, int]]:
    """What waits, and the dead letters. Of a service that does not run nobody waits for anything."""
    try:
        waiting = {name: count for name, count in (await lag()).items() if replicas.slots(name.rpartition(" → ")[2])}
    except BusOutage as outage:
        return {outage.detail: 1}, {}
    services = [name for name, slots in replicas.filled.items() if slots]
    found = await asyncio.gather(*(backlog(replicas.slots(name)[0].port) for name in services))
    dead: dict[str, int] = {}
    for name, one in zip(services, found, strict=True):
        for what in ("outbox", "waiting"):
            if one.get(what):
                waiting[f"{name}'s {'outbox' if what == 'outbox' else 'parked events'}"] = one[what]
        if one.get("dead"):
            dead[name] = one["dead"]
    return waiting, dead


async def backlog(port: int) -> dict[str, int]:
    """What a replica says of its own database; {} when it does not know (a `command` has no atoll inside)."""
    with suppress(OSError, ValueError):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        try:
            writer.write(_REQUEST)
            async with asyncio.timeout(5.0):
                answer = await reader.read()
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        if head.split()[1:2] == [b"200"]:
            found = json.loads(body)
            return {key: value for key, value in found.items() if isinstance(value, int)} if isinstance(found, dict) else {}
    return {}
