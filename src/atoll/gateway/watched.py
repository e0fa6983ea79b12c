"""Whether Envoy can still see what is written: it watches directories, and one that was removed and made again is another."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress

from atoll.gateway.admin import Admin
from atoll.gateway.xds.folders import PROOF, SECRETS, TYPES, Folders

__all__ = ["Watched", "unwatched"]

# Envoy counts whole seconds.
_INEXACT_S = 1.5


def unwatched(kinds: Sequence[str]) -> str:
    """What has to be done about it."""
    names = ", ".join(kinds)
    return f"Envoy can't see changes of {names} any more, because the directory was removed: end Envoy, so that it starts again"


class Watched:
    """The directories as they were when it began. An Envoy that starts watches those that are there then."""

    def __init__(self, folders: Folders, admin: Admin) -> None:
        self._folders = folders
        self._admin = admin
        self._held: dict[str, int] = {}
        self._blind_since: float | None = None
        self._hold()

    def __del__(self) -> None:
        self._release()

    async def lost(self) -> list[str]:
        """The types whose directory is not the one that Envoy watches."""
        lost = [kind for kind in self._held if not self._is_there(kind)]
        if not lost:
            return []
        if not await self._has_started_again():
            return lost
        self._hold()
        return []

    async def _has_started_again(self) -> bool:
        """Since one was lost. While no Envoy is there, the next one is another."""
        uptime_s, now = await self._admin.uptime_s(), time.monotonic()
        if self._blind_since is None:
            self._blind_since = now - (_INEXACT_S if uptime_s is None else uptime_s)
        return uptime_s is not None and now - uptime_s > self._blind_since + _INEXACT_S

    def _is_there(self, kind: str) -> bool:
        """By what is held open: the number of a directory that is gone is given to the next one."""
        try:
            found = os.stat(self._folders.directory(kind))
        except OSError:
            return False
        return os.path.samestat(os.fstat(self._held[kind]), found)

    def _hold(self) -> None:
        self._release()
        self._blind_since = None
        for kind in (*TYPES, PROOF, *SECRETS):
            with suppress(OSError):
                self._held[kind] = os.open(self._folders.directory(kind), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _release(self) -> None:
        while self._held:
            os.close(self._held.popitem()[1])
