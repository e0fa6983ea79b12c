"""The leases one process holds: taken when free, renewed together in one statement, released when it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from atoll.database.ports import Journal, Lease
from atoll.errors import DatabaseOutage

__all__ = ["Leases"]

_log = logging.getLogger("atoll.delivery")


class Leases:
    """`take` waits for a lease; `holds` tells if it is still ours as of the last renewal.

    A holder that was paused past `duration_s` finds out at its next renewal; what it commits before that is refused by the
    cursor's epoch, so a late holder is slow, never wrong.
    """

    def __init__(self, journal: Journal, owner: str, duration_s: float) -> None:
        self._journal = journal
        self._owner = owner
        self._duration_s = duration_s
        self._held: dict[str, Lease] = {}

    async def take(self, source: str) -> Lease:
        """The lease of `source`, as soon as it is free. Raises DatabaseOutage."""
        while True:
            lease = await self._journal.take_lease(source, self._owner, self._duration_s)
            if lease is not None:
                self._held[source] = lease
                return lease
            await asyncio.sleep(self._duration_s / 5)

    def holds(self, source: str) -> bool:
        return source in self._held

    def drop(self, source: str) -> None:
        """Forget it: somebody else has it, or it must be taken anew."""
        self._held.pop(source, None)

    def moved(self, lease: Lease) -> None:
        """The cursor of a held lease is now this one."""
        if lease.source in self._held:
            self._held[lease.source] = lease

    async def run(self) -> None:
        """Renews until cancelled."""
        while True:
            await asyncio.sleep(self._duration_s / 3)
            if not self._held:
                continue
            asked = dict(self._held)
            with contextlib.suppress(DatabaseOutage):
                held = await self._journal.renew_leases(asked.values(), self._duration_s)
                for source in asked.keys() - held:
                    if self._held.get(source) is not None and self._held[source].epoch == asked[source].epoch:
                        _log.warning("the lease of %s was taken over by another replica", source)
                        self.drop(source)

    async def release(self) -> None:
        """Frees what is held, so that another replica goes on at once."""
        held, self._held = self._held, {}
        for lease in held.values():
            with contextlib.suppress(DatabaseOutage):
                await self._journal.release_lease(lease)
