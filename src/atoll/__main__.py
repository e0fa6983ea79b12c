"""`python -m atoll …` is `atoll …`, for IDEs, for interpreters without scripts, and as the first process of a container."""

from __future__ import annotations

import os
import signal
import sys

_FIRST = 1


def _run() -> int:
    """The kernel gives a first process no defaults: until a command listens to signals, SIGTERM would not end it."""
    if os.getpid() == _FIRST:
        signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))
    from atoll.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(_run())
