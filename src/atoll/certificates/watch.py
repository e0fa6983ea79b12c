"""Files that somebody else replaces. They are looked at again and again: that costs microseconds, needs no inotify instance, of
which a user has few, and sees a link that changes (as Kubernetes does it) as well as a rename.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["LOOK_S", "Watch"]

LOOK_S = 0.5
"""How often whoever follows files looks at them."""


class Watch:
    """`changed` says whether any of the files is another than when it was last asked; the first time it is so."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = tuple(files)
        self._seen: object = None

    def changed(self) -> bool:
        before, self._seen = self._seen, [_mark(file) for file in self._files]
        return before != self._seen


def _mark(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
