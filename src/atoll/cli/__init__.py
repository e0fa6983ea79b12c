"""The command line, one file per command. `main` is what the script `atoll` calls.

The rule: a command asks a room and prints; it decides nothing itself. A command's module is imported only when that
command runs, so that `atoll --help` costs nothing; its line of help stands in `commands`. Every error a person can cause
is one message on stderr and exit code 1. Read `commands` first, then `here`.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> int:
    """Runs the command in sys.argv; gives its exit code."""
    from atoll.cli.commands import run

    return run()
