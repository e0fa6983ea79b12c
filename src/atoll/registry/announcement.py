"""A replica says that it runs, again and again, until it withdraws or a successor in its slot takes over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable

import msgspec

from atoll.bus.ports import Bus
from atoll.errors import BusOutage
from atoll.registry.replica import STREAM, Replica, parse, removal, subject

__all__ = ["Announcement", "remove"]

logger = logging.getLogger("atoll.registry")

_WRONG_LAST_SEQUENCE = 10071
_RETRY_S = 0.5


class Announcement:
    """Every write but the first is conditional on being the next one, so that a replica that drains never overwrites or
    removes the entry of its successor.
    """

    def __init__(self, bus: Bus, replica: Replica, *, interval_s: float = 5.0, clock: Callable[[], float] = time.time) -> None:
        self.replica = msgspec.structs.replace(replica, incarnation=replica.incarnation or os.urandom(6).hex())
        self.superseded = False
        self._bus = bus
        self._interval_s = interval_s
        self._clock = clock
        self._sequence: int | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._end_listening: Callable[[], None] = lambda: None

    @property
    def announced(self) -> bool:
        """Whether the entry has been stored at least once."""
        return self._sequence is not None

    async def start(self) -> None:
        """Returns at once; the entry is written as soon as the bus is there, and after every reconnect."""
        self._end_listening = self._bus.on_connected(self._wake.set)
        self._task = asyncio.create_task(self._go_on(), name=f"registry {self.replica.key}")

    async def stop(self) -> None:
        """Ends the announcement; the entry stays."""
        self._end_listening()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def withdraw(self, timeout_s: float = 1.0) -> None:
        """Ends the announcement and removes the entry, if it is still this process's. Never raises: the bus may be down."""
        await self.stop()
        if self.superseded or self._sequence is None:
            return
        with contextlib.suppress(BusOutage):
            try:
                await _write(self._bus, self.replica.key, b"", self._sequence, timeout_s)
            except _Taken as taken:
                if await self._still_mine(taken.sequence, timeout_s):
                    await _write(self._bus, self.replica.key, b"", self._sequence, timeout_s)

    async def _go_on(self) -> None:
        while not self.superseded:
            self._wake.clear()
            pause_s = self._interval_s
            try:
                await self._beat()
            except BusOutage as error:
                logger.debug("%s is not announced: %s", self.replica.key, error.detail)
                pause_s = _RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def _beat(self) -> None:
        entry = msgspec.json.encode(msgspec.structs.replace(self.replica, beat=self._clock()))
        try:
            self._sequence = await _write(self._bus, self.replica.key, entry, self._sequence)
        except _Taken as taken:
            if not await self._still_mine(taken.sequence):
                self.superseded = True
                logger.info("another process took over the slot %s", self.replica.key)
                return
            with contextlib.suppress(_Taken):  # then by whom, the next beat will see
                self._sequence = await _write(self._bus, self.replica.key, entry, self._sequence)

    async def _still_mine(self, last: int, timeout_s: float = 5.0) -> bool:
        """After a refused write: what stands there may be mine all the same (its acknowledgement was lost), or nobody's.

        Among several servers one that is behind may show what was there before me, and one that was cut off may refuse with
        it. Neither tells of a successor, so an entry is believed only when it is as new as the refusal says, and one of another
        process only when it is newer than mine.
        """
        found = await self._bus.latest(STREAM, subject(self.replica.key), timeout_s)
        sequence = found[0].sequence if found else 0
        if sequence < last:
            raise BusOutage(f"the registry showed {self.replica.key} as it was before {last}")
        if found and not removal(found[0]):
            entry = parse(found[0])
            if entry is not None and entry.incarnation != self.replica.incarnation:
                if sequence < (self._sequence or 0):
                    raise BusOutage(f"the registry showed {self.replica.key} as it was before {self._sequence}")
                return False
        self._sequence = sequence
        return True


async def remove(bus: Bus, service: str, replica: str, died_at: float) -> bool:
    """Withdraws a replica whose process died at `died_at` (epoch s), unless a successor has announced itself since."""
    key = f"{service}.{replica}"
    found = await bus.latest(STREAM, subject(key))
    if not found or removal(found[0]):
        return False
    entry = parse(found[0])
    if entry is not None and entry.beat > died_at:
        return False
    try:
        await _write(bus, key, b"", found[0].sequence)
    except _Taken:
        return False
    return True


class _Taken(Exception):
    """The last write of this key was another one: the one of `sequence`, as the refusal says."""

    def __init__(self, sequence: int) -> None:
        super().__init__(sequence)
        self.sequence = sequence


async def _write(bus: Bus, key: str, body: bytes, expected: int | None, timeout_s: float = 5.0) -> int:
    """The new sequence. Raises _Taken when `expected` was not the last one of this key. No body removes."""
    headers = b"" if body else b"KV-Operation: DEL\r\n"
    if expected is not None:
        headers += b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % expected
    answer = json.loads(await bus.request(subject(key), body, headers, timeout_s))
    if error := answer.get("error"):
        description = str(error.get("description"))
        if error.get("err_code") == _WRONG_LAST_SEQUENCE:
            raise _Taken(_last_number(description))
        raise BusOutage(f"the registry did not take {key}: {description}")
    return int(answer["seq"])


def _last_number(text: str) -> int:
    """Of `wrong last sequence: 17`; 0 where none is told."""
    word = text.rpartition(" ")[2]
    return int(word) if word.isdigit() else 0
