"""When a system has settled: no event waits in an outbox, for a consumer or for its next try. What fails holds nobody up.

A system is up before that: this only keeps who starts one from looking at what is half done. So events that are being
handled are waited for a little, one that fails again and again hardly at all, and a dead letter never; each is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from atoll.errors import BusOutage
from atoll.host.ports import LOOPBACK
from atoll.system.budgets import BUDGETS

__all__ = ["settle"]

_PAUSE_S = 0.02
# So long nobody needs to know what is waited for, and what failed once may succeed.
_SILENT_S = 2.0
_MOST_S = 10.0
_ANSWER_S = 5.0
_REQUEST = b"GET /health/backlog HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

Lag = Callable[[], Awaitable[dict[str, int]]]
Say = Callable[[str], None]


class Failing(msgspec.Struct, frozen=True):
    """The event that a service has tried most often. An outage counts as no attempt."""

    type: str
    id: str
    attempts: int
    error: str


class Backlog(msgspec.Struct, frozen=True):
    """What a replica says of its service's own database."""

    outbox: int = 0
    waiting: int = 0
    dead: int = 0
    failing: Failing | None = None


@dataclass(frozen=True, slots=True)
class Rest:
    """What is not handled: by where, how much is being worked at; by service, events that fail and how many are dead."""

    moving: Mapping[str, int]
    failing: Mapping[str, Backlog] = field(default_factory=dict)
    dead: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{where}: {count}" for where, count in self.moving.items())


async def settle(lag: Lag, ports: Mapping[str, int], say: Say) -> None:
    """Returns when nothing is left, or when it is not worth waiting for: then `say` has been told what is left, and why.

    `ports` are where the services answer that run.
    """
    began = time.monotonic()
    rest = first = await _calm(lag, ports, lambda one: bool(one.moving or one.failing), began + _SILENT_S)
    _tell_failing(first.failing, say)
    if first.moving:
        say(f"waiting for events that are being handled: {first}")
        rest = await _calm(lag, ports, lambda one: bool(one.moving), began + _MOST_S)
        _tell_failing({name: one for name, one in rest.failing.items() if name not in first.failing}, say)
    if rest.moving:
        say(f"after {_MOST_S:g} s not all events are handled, services go on with them: {rest}")
    for service, dead in rest.dead.items():
        say(f"{service} has {dead} dead letters: `atoll dead-letters list {service}`")


def _tell_failing(failing: Mapping[str, Backlog], say: Say) -> None:
    for service, one in failing.items():
        say(f"warning: {service} {_failing(one)}; `atoll dead-letters list {service} --waiting`, `atoll logs {service}`")


async def _calm(lag: Lag, ports: Mapping[str, int], busy: Callable[[Rest], bool], end_s: float) -> Rest:
    """What is left when two looks one after the other were not busy, or at the end.

    Two, because an event that is handled between outbox and stream is in neither for a moment.
    """
    calm = 0
    while True:
        rest = await _look(lag, ports)
        calm = 0 if busy(rest) else calm + 1
        if calm == 2 or time.monotonic() > end_s:
            return rest
        if not calm:
            await asyncio.sleep(_PAUSE_S)


def _failing(one: Backlog) -> str:
    if one.failing is None:
        return f"has {one.waiting} events that wait for their next try"
    behind = f", {one.waiting - 1} more wait" if one.waiting > 1 else ""
    tried = f"tried {one.failing.attempts} of {BUDGETS.attempts} times" if one.failing.attempts else "an outage"
    return f"can't handle {one.failing.type} {one.failing.id} ({tried}{behind}): {one.failing.error}"


async def _look(lag: Lag, ports: Mapping[str, int]) -> Rest:
    """Of a service that does not run nobody waits for anything."""
    try:
        moving = {where: count for where, count in (await lag()).items() if where.rpartition(" → ")[2] in ports}
    except BusOutage as outage:
        return Rest({outage.detail: 1})
    found = dict(zip(ports, await asyncio.gather(*map(_backlog, ports.values())), strict=True))
    outboxes = {f"{service}'s outbox": one.outbox for service, one in found.items() if one.outbox}
    failing = {service: one for service, one in found.items() if one.waiting}
    return Rest({**moving, **outboxes}, failing, {service: one.dead for service, one in found.items() if one.dead})


async def _backlog(port: int) -> Backlog:
    """Nothing where a replica does not know (a `command` has no atoll inside)."""
    with suppress(OSError, msgspec.MsgspecError):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        try:
            writer.write(_REQUEST)
            async with asyncio.timeout(_ANSWER_S):
                answer = await reader.read()
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        if head.split()[1:2] == [b"200"]:
            return msgspec.json.decode(body, type=Backlog)
    return Backlog()
