"""Which version an engine's binary is, asked once per binary and machine: asking loads a hundred megabytes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["Versions"]


class Versions:
    """Kept in a file, by the binary's path, size and time. What can't be run is not kept, and raises as `ask` does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asking = threading.Lock()
        self._known: dict[str, str] = {}
        with suppress(OSError, ValueError):
            self._known = json.loads(path.read_text())

    def of(self, binary: Path, ask: Callable[[Path], str]) -> str:
        """May block for as long as the binary takes to load. Services that open their databases at once ask in threads."""
        found = binary.stat()
        key = f"{binary} {found.st_size} {found.st_mtime_ns}"
        with self._asking:
            if key not in self._known:
                self._known[key] = ask(binary)
                self._save()
            return self._known[key]

    def _save(self) -> None:
        draft = self._path.with_suffix(f".{os.getpid()}.draft")
        draft.write_text(json.dumps(self._known, indent=2, sort_keys=True) + "\n")
        os.replace(draft, self._path)
