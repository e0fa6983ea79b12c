"""Who is running, as far as the registry tells: a snapshot, then every change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from atoll.bus.ports import Bus, Received
from atoll.errors import BusOutage
from atoll.registry.replica import NOBODY_HEARD_S, STREAM, Replica, parse, removal, subject

__all__ = ["Watch"]

logger = logging.getLogger("atoll.registry")

_RETRY_S = 0.5

Changed = Callable[[Mapping[str, Replica]], None]


class Watch:
    """Keeps the replicas that run, by key. `changed` is called on the event loop with all of them whenever they differ.

    A replica unheard for `stale_after_s` while others are still heard counts as gone until it is heard again. Time is taken
    from the entries themselves, so that a watcher that was stopped for a while does not take everybody for silent.
    """

    def __init__(
        self, bus: Bus, changed: Changed, *, stale_after_s: float = 30.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._bus = bus
        self._changed = changed
        self._stale_after_s = stale_after_s
        self._clock = clock
        self._members: dict[str, Replica] = {}
        self._running: dict[str, Replica] = {}
        self._newest_beat = 0.0
        self._listening_since = 0.0
        self._heard: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._ends: list[Callable[[], None]] = []

    @property
    def replicas(self) -> Mapping[str, Replica]:
        """Who runs now, by `<service>.<replica>`."""
        return MappingProxyType(self._running)

    async def start(self) -> None:
        """Returns at once; `changed` is called when something is known."""
        self._ends = [self._bus.subscribe(subject(">"), self._live), self._bus.on_connected(self._connected)]
        if self._bus.connected:
            self._connected()

    async def close(self) -> None:
        """Ends watching; `replicas` stay as they were."""
        for end in self._ends:
            end()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _connected(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._take_snapshot(), name="registry snapshot")

    async def _take_snapshot(self) -> None:
        """What was heard live since the question was asked is newer than the answer. What the answer lacks is not gone:
        the bucket may have been wiped."""
        self._listening_since = self._clock()
        self._heard.clear()
        while True:
            try:
                snapshot = await self._bus.latest(STREAM, subject(">"))
            except BusOutage as error:
                logger.debug("no snapshot of the registry: %s", error.detail)
                await asyncio.sleep(_RETRY_S)
                continue
            for entry in snapshot:
                if entry.subject not in self._heard:
                    self._take(entry)
            self._tell()
            return

    def _live(self, received: Received) -> None:
        self._heard.add(received.subject)
        self._take(received)
        self._tell()

    def _take(self, received: Received) -> None:
        if removal(received):
            self._members.pop(received.subject.removeprefix(subject("")), None)
            return
        entry = parse(received)
        if entry is None:
            logger.warning("the registry's entry %s can't be read: kept as it was", received.subject)
            return
        self._members[entry.key] = entry
        if entry.beat - self._newest_beat > NOBODY_HEARD_S:
            self._listening_since = max(self._listening_since, entry.beat)
        self._newest_beat = max(self._newest_beat, entry.beat)

    def _tell(self) -> None:
        running = {key: entry for key, entry in sorted(self._members.items()) if not self._stale(entry)}
        before, self._running = self._running, running
        if before.keys() != running.keys() or any(not entry.same_process(before[key]) for key, entry in running.items()):
            self._changed(self.replicas)

    def _stale(self, entry: Replica) -> bool:
        """Everybody is given time after a reconnect, or when nobody was heard: it could not be."""
        return self._newest_beat - max(entry.beat, self._listening_since) > self._stale_after_s
