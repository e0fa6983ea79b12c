"""Stopping a system from outside, however its host is: running, hung or long dead."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from atoll.errors import AtollError
from atoll.host import lock, state
from atoll.host.control import ask
from atoll.host.layout import Layout

__all__ = ["stop"]

_TIMEOUT_S = 60.0
_SILENCE_S = 5.0
_DEAF_S = 15.0
_PAUSE_S = 0.01


def stop(layout: Layout, say: Callable[[str], None]) -> bool:
    """Nothing of the system runs when this returns, whoever was killed before. False when nothing ran."""
    host = lock.holder(layout.lock)
    if host is not None:
        _end(layout, host, say)
    killed = _clean_up(layout)
    if killed and host is None:
        say(f"killed {len(killed)} processes that a former host had left")
    return host is not None or bool(killed)


def _end(layout: Layout, host: int, say: Callable[[str], None]) -> None:
    """Asks the host to go, and kills one that hears nothing or does not come to an end."""
    if _went(layout, host, say):
        return
    say(f"the host (pid {host}) does not answer and is killed")
    with contextlib.suppress(ProcessLookupError):
        os.kill(host, signal.SIGKILL)
    while lock.holder(layout.lock) == host:
        time.sleep(_PAUSE_S)


def _went(layout: Layout, host: int, say: Callable[[str], None]) -> bool:
    """A host that has just begun takes no questions yet, so it is asked until it does."""
    begun, asked, told = time.monotonic(), False, False
    while lock.holder(layout.lock) == host:
        asked = asked or _asked(layout)
        lasted_s = time.monotonic() - begun
        if lasted_s > (_TIMEOUT_S if asked else _DEAF_S):
            return False
        if lasted_s > _SILENCE_S and not told:
            say("still stopping: what is in hand is finished first" if asked else f"the host (pid {host}) is asked again")
            told = True
        time.sleep(_PAUSE_S)
    return True


def _asked(layout: Layout) -> bool:
    """Whether the host has heard it."""
    try:
        ask(layout, {"do": "down"})
    except (AtollError, OSError):
        return False
    return True


def _clean_up(layout: Layout) -> list[int]:
    if not layout.root.is_dir():
        return []
    held = lock.Lock(layout.lock)
    try:
        layout.control.unlink(missing_ok=True)
        return state.clean_up(layout.state)
    finally:
        held.release()
