"""Log files with an end: one that is full is set aside as `.1`, in place of what was set aside before.

A process goes on with the file that it was given, and appends to it: what it has said is copied, then the file is emptied
under its feet. A line that it writes in between, in microseconds, is lost. Envoy opens its access log itself and anew when
asked, so that one is renamed and loses nothing; see `gateway`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

__all__ = ["LIMIT_BYTES", "is_full", "open_log", "rename", "set_aside", "tail"]

LIMIT_BYTES = 20_000_000
_TAIL_BYTES = 16_384


def open_log(path: Path) -> BinaryIO:
    """For a process that is about to start, which the caller closes its own end after."""
    return _private(path, "ab")


def is_full(path: Path) -> bool:
    try:
        return path.stat().st_size > LIMIT_BYTES
    except FileNotFoundError:
        return False


def rename(path: Path) -> None:
    """For a log whose writer opens it anew."""
    os.replace(path, _former(path))


def set_aside(folder: Path) -> list[Path]:
    """The full logs in `folder`, emptied while their processes run. May take as long as the disk takes to copy them."""
    full = [path for path in sorted(folder.glob("*.log")) if is_full(path)]
    for path in full:
        with contextlib.suppress(FileNotFoundError), open(path, "rb+") as log, _private(_former(path), "wb") as former:
            shutil.copyfileobj(log, former, 1 << 20)
            os.ftruncate(log.fileno(), 0)
    return full


def tail(path: Path, offset: int = 0, lines: int = 12) -> list[str]:
    """The last lines that were written after `offset`, which means nothing in a log that was emptied since."""
    try:
        with open(path, "rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(offset if offset <= size else 0, size - _TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def _former(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _private(path: Path, mode: str) -> BinaryIO:
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))  # type: ignore[return-value]
