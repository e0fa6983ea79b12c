"""One host per system: an advisory lock on `.atoll/lock`, held for the host's life and gone with it, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from atoll.errors import SystemMistake

__all__ = ["Lock", "holder"]


class Lock:
    """Held from construction until `release`. Raises SystemMistake that names the host which holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._take()
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def _take(self) -> int:
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                raise SystemMistake(
                    f"this system is running already (host pid {holder(self._path) or 'unknown'})",
                    hint="`atoll ps` shows it, `atoll down` stops it; `cp -r` and `--isolated` run a second copy beside it",
                ) from None
            if _same_file(file, self._path):
                return file
            os.close(file)  # its last holder deleted it in between

    def release(self) -> None:
        """The file goes too: nothing is left behind."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._file)


def holder(path: Path) -> int | None:
    """The pid of the living host that holds the lock at `path`, None when nobody does."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        text = os.pread(file, 32, 0).strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(file)


def _same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
