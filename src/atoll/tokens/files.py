"""Replacing a file in one step: a reader, or a start after a crash, sees the old content or the new one."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["save"]


def save(path: Path, content: bytes) -> None:
    """Durable when it returns. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
