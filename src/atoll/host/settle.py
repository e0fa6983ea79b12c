"""When a system has settled: nothing waits in an outbox or for a consumer. Parked events are reported, not awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from atoll.errors import BusOutage
from atoll.host.replicas import Replicas

__all__ = ["Unsettled", "settle"]

_PAUSE_S = 0.01


class Unsettled(Exception):
    """What still waits, for a person."""


async def settle(lag: Callable[[], Awaitable[dict[str, int]]], replicas: Replicas, timeout_s: float) -> None:
    """Returns when two looks one after the other found nothing waiting. Raises Unsettled.

    Two, because an event that is handled between outbox and stream is in neither for a moment.
    """
    end = time.monotonic() + timeout_s
    calm = 0
    waiting: dict[str, int] = {}
    while calm < 2:
        if time.monotonic() > end:
            raise Unsettled(", ".join(f"{name}: {count}" for name, count in waiting.items()))
        try:
            waiting = _of_running(await lag(), replicas)
        except BusOutage as outage:
            waiting = {outage.detail: 1}
        calm = 0 if waiting else calm + 1
        if waiting:
            await asyncio.sleep(_PAUSE_S)


def _of_running(lag: dict[str, int], replicas: Replicas) -> dict[str, int]:
    """A service that does not run handles nothing, and nobody waits for it."""
    return {name: count for name, count in lag.items() if replicas.slots(name.rpartition(" → ")[2])}
