"""A loop that stalls serves nobody: a stall over 100 ms is logged with the stack that caused it.

The loop notes the time as often as it should get its turn; a thread looks at the notes and, while they are late, at the stack.
One that ended before the thread was sure of it is told from the next note, with the stack seen meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback

__all__ = ["StallWatch"]

_TICK_S = 0.05
_FRAMES = 12
_log = logging.getLogger("atoll.service")


class StallWatch:
    """Watches the running loop from a thread until `stop`. What is `limit_s` and a tick longer is always told, once."""

    def __init__(self, limit_s: float = 0.1) -> None:
        self._limit_s = limit_s
        self._ticked_at = time.monotonic()
        self._ended = (0.0, 0.0)  # a note, and how late the one after it came
        self._stopped = threading.Event()
        self._thread_id = threading.get_ident()
        self.told = 0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ticked_at = time.monotonic()
        self._loop.call_later(_TICK_S, self._tick)
        threading.Thread(target=self._watch, name="stall-watch", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _tick(self) -> None:
        now, before = time.monotonic(), self._ticked_at
        if (late_s := now - before - _TICK_S) > self._limit_s:
            self._ended = (before, late_s)
        self._ticked_at = now
        if not self._stopped.is_set():
            self._loop.call_later(_TICK_S, self._tick)

    def _watch(self) -> None:
        told_of, seen = 0.0, (0.0, "")
        while not self._stopped.wait(_TICK_S):
            ticked_at = self._ticked_at
            late_s = time.monotonic() - ticked_at - _TICK_S
            if late_s > self._limit_s / 2 and told_of != ticked_at:
                stack = self._stack()
                seen = (self._ticked_at, stack)  # another moment than before when it went on meanwhile
            if late_s <= self._limit_s:
                ticked_at, late_s = self._ended
            if late_s > self._limit_s and told_of != ticked_at:
                told_of = ticked_at
                self.told += 1
                where = f"here:\n{seen[1]}" if seen[0] == ticked_at else "and nobody saw where"
                _log.warning("the event loop has been stalled for %.0f ms, %s", late_s * 1000, where)

    def _stack(self) -> str:
        """Where the loop's thread is, from the handler down; the frames of the loop itself tell nothing."""
        frame = sys._current_frames().get(self._thread_id)
        return "".join(traceback.format_stack(frame, limit=_FRAMES)) if frame else ""
