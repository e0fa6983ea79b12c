"""The key set and the ended sessions as one service process knows them: the last ones on disk, then whatever auth publishes.

A process that starts without the bus verifies with what is on disk; what changed reaches it as soon as it is connected.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from atoll.bus.ports import Bus, Received
from atoll.errors import BusOutage, Malformed
from atoll.service.open_calls import OpenCalls
from atoll.tokens.keys import KeySet
from atoll.tokens.providers import Providers
from atoll.tokens.revocations import Revocations
from atoll.tokens.verify import Verifier

__all__ = ["KeyFeed"]

_STREAM = "keys"
_SET = "keys.set"
_REVOKED = "keys.revoked."
_PROVIDERS = "keys.providers"
_ALL = "keys.>"  # a snapshot is asked for as a whole: that is what services may ask
_ASK_AGAIN_S = 0.25
_READ_AGAIN_S = 10.0
_SAVE_AFTER_S = 0.5  # a thousand sessions that end together are written once
_log = logging.getLogger("atoll.service")


class KeyFeed:
    """Keeps `verifier` up to date. `load` first, then `start` once there is a bus. `folder` is this process's to write in."""

    def __init__(self, verifier: Verifier, folder: Path) -> None:
        self._verifier = verifier
        self._keys = folder / "keys.json"
        self._revocations = folder / "revocations.json"
        self._providers = folder / "providers.json"
        self._revoked = Revocations()
        self._saving: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._bus: Bus | None = None
        self._calls = OpenCalls()

    def watch(self, calls: OpenCalls) -> None:
        """From now on, ends those whose caller may not go on."""
        self._calls = calls
        calls.end(self._revoked.sessions)

    def load(self) -> None:
        """What was known when this service last ran."""
        saved = KeySet.load(self._keys)
        if saved is not None:
            self._verifier.update(saved)
        self._verifier.trust(Providers.load(self._providers))
        self._revoked = Revocations.load(self._revocations)
        self._verifier.refuse(self._revoked.sessions)

    def start(self, bus: Bus) -> None:
        self._bus = bus
        bus.subscribe(_ALL, self._take)
        bus.on_connected(self._ask)
        if bus.connected:
            self._ask()

    def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        if self._saving is not None:
            self._saving.cancel()
            self._save()

    def _ask(self) -> None:
        """A snapshot after every (re)connect: what was published meanwhile did not come live."""
        if self._asking is not None:
            self._asking.cancel()
        self._asking = asyncio.create_task(self._snapshot())

    async def _snapshot(self) -> None:
        """Of several servers again and again: a session's end must not be missed because of two that have lost each other."""
        while self._bus is not None and self._bus.connected:
            try:
                for message in await self._bus.latest(_STREAM, _ALL):
                    self._take(message)
                if not self._bus.several:
                    return
                await asyncio.sleep(_READ_AGAIN_S)
            except BusOutage as outage:
                _log.debug("no key set yet: %s", outage)
                await asyncio.sleep(_ASK_AGAIN_S)

    def _take(self, message: Received) -> None:
        """Live or from a snapshot: older than what is known changes nothing."""
        try:
            if message.subject == _SET:
                self._take_keys(KeySet.parse(message.body))
            elif message.subject.startswith(_REVOKED):
                self._take_revocations(self._revoked.received(message.body))
            elif message.subject == _PROVIDERS:
                self._take_providers(Providers.parse(message.body))
        except Malformed as error:
            _log.error("what came on %s can't be read and is ignored: %s", message.subject, error)

    def _take_keys(self, received: KeySet) -> None:
        known = self._verifier.keys
        newest = known.update(received)
        if newest != known:
            self._verifier.update(newest)
            self._calls.judge(self._verifier)
            newest.save(self._keys)
            _log.info("tokens are verified with keys %s", ", ".join(key.kid for key in newest.keys))

    def _take_providers(self, received: Providers) -> None:
        known = self._verifier.providers
        newest = known.update(received)
        if newest != known:
            self._verifier.trust(newest)
            self._calls.judge(self._verifier)
            newest.save(self._providers)

    def _take_revocations(self, newest: Revocations) -> None:
        if newest == self._revoked:
            return
        self._revoked = newest
        self._verifier.refuse(newest.sessions)
        self._calls.end(newest.sessions)
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(_SAVE_AFTER_S, self._save)

    def _save(self) -> None:
        self._saving = None
        self._revoked.save(self._revocations)
