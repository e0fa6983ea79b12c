"""What a loop says when it can't go on: once at first, then once a minute, so that it is neither silent nor noise."""

from __future__ import annotations

import logging
import time

from atoll.errors import Outage

__all__ = ["Complaints"]

_AGAIN_S = 60.0
_log = logging.getLogger("atoll.delivery")


class Complaints:
    """Of one loop. An outage is a warning; anything else is somebody's bug, and logged whole."""

    def __init__(self) -> None:
        self._last: tuple[str, float] = ("", 0.0)

    def about(self, who: str, error: Exception) -> None:
        now = time.monotonic()
        kind, said_at = self._last
        if kind == type(error).__name__ and now - said_at < _AGAIN_S:
            _log.debug("%s waits: %s", who, error)
            return
        self._last = (type(error).__name__, now)
        if isinstance(error, Outage):
            _log.warning("%s waits and goes on by itself: %s", who, error.detail or error)
        else:
            _log.error("%s failed and tries again: %s", who, error, exc_info=error)
