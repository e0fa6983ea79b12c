"""The key set as one service process knows it: the last one on disk, then whatever auth publishes.

A process that starts without the bus verifies with the set on disk; a rotation reaches it as soon as it is connected.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from atoll.bus.ports import Bus, Received
from atoll.errors import BusOutage, Malformed
from atoll.tokens.keys import KeySet
from atoll.tokens.verify import Verifier

__all__ = ["KeyFeed"]

_STREAM = "keys"
_SUBJECT = "keys.set"
_ALL = "keys.>"  # a snapshot is asked for as a whole: that is what services may ask
_ASK_AGAIN_S = 0.25
_log = logging.getLogger("atoll.service")


class KeyFeed:
    """Keeps `verifier` up to date. `load` first, then `start` once there is a bus."""

    def __init__(self, verifier: Verifier, path: Path) -> None:
        self._verifier = verifier
        self._path = path
        self._asking: asyncio.Task[None] | None = None
        self._bus: Bus | None = None

    def load(self) -> None:
        """The set that was known when this service last ran, if there is one."""
        saved = KeySet.load(self._path)
        if saved is not None:
            self._verifier.update(saved)

    def start(self, bus: Bus) -> None:
        self._bus = bus
        bus.subscribe(_SUBJECT, self._on_live)
        bus.on_connected(self._ask)
        if bus.connected:
            self._ask()

    def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    def _on_live(self, message: Received) -> None:
        self._take(message.body)

    def _ask(self) -> None:
        """A snapshot after every (re)connect: what was published meanwhile did not come live."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._snapshot())

    async def _snapshot(self) -> None:
        while self._bus is not None and self._bus.connected:
            try:
                for message in await self._bus.latest(_STREAM, _ALL):
                    if message.subject == _SUBJECT:
                        self._take(message.body)
                return
            except BusOutage as outage:
                _log.debug("no key set yet: %s", outage)
                await asyncio.sleep(_ASK_AGAIN_S)

    def _take(self, body: bytes) -> None:
        try:
            received = KeySet.parse(body)
        except Malformed as error:
            _log.error("a key set that can't be read is ignored: %s", error)
            return
        known = self._verifier.keys
        newest = known.update(received)
        if newest != known:
            self._verifier.update(newest)
            newest.save(self._path)
            _log.info("tokens are verified with keys %s", ", ".join(key.kid for key in newest.keys))
