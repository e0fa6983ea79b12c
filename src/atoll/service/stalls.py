"""A loop that stalls serves nobody: a stall over 100 ms is logged with the stack that caused it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback

__all__ = ["StallWatch"]

_TICK_S = 0.1
_FRAMES = 12
_log = logging.getLogger("atoll.service")


class StallWatch:
    """Watches the running loop from a thread until `stop`."""

    def __init__(self, limit_s: float = 0.1) -> None:
        self._limit_s = limit_s
        self._ticked_at = time.monotonic()
        self._stopped = threading.Event()
        self._thread_id = threading.get_ident()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._tick()
        threading.Thread(target=self._watch, name="stall-watch", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _tick(self) -> None:
        self._ticked_at = time.monotonic()
        if not self._stopped.is_set():
            self._loop.call_later(_TICK_S, self._tick)

    def _watch(self) -> None:
        reported_at = 0.0
        while not self._stopped.wait(_TICK_S):
            ticked_at = self._ticked_at
            late_s = time.monotonic() - ticked_at - _TICK_S
            if late_s > self._limit_s and reported_at != ticked_at:
                reported_at = ticked_at
                _log.warning("the event loop has been stalled for %.0f ms, here:\n%s", late_s * 1000, self._stack())

    def _stack(self) -> str:
        """Where the loop's thread is, from the handler down; the frames of the loop itself tell nothing."""
        frame = sys._current_frames().get(self._thread_id)
        return "".join(traceback.format_stack(frame, limit=_FRAMES)) if frame else ""
