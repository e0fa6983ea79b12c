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
    with contextlib.suppress(AtollError, OSError):
        ask(layout, {"do": "down"}, say)
    end = time.monotonic() + _TIMEOUT_S
    while lock.holder(layout.lock) == host:
        if time.monotonic() > end:
            say(f"the host (pid {host}) does not answer and is killed")
            with contextlib.suppress(ProcessLookupError):
                os.kill(host, signal.SIGKILL)
            end += _TIMEOUT_S
        time.sleep(_PAUSE_S)


def _clean_up(layout: Layout) -> list[int]:
    if not layout.root.is_dir():
        return []
    held = lock.Lock(layout.lock)
    try:
        layout.control.unlink(missing_ok=True)
        return state.clean_up(layout.state)
    finally:
        held.release()
