"""Passwords that nobody has to know: made at first use, kept in `.atoll/secrets.json`, which only its owner can read."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from atoll.bus import nkeys
from atoll.errors import SystemMistake

__all__ = ["Secrets"]


class Secrets:
    """Secrets by name, made when first asked for. Call `save` before anything is configured with them.

    Raises SystemMistake: the file is not what was written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_name = _read(path)
        self._changed = False

    def of(self, name: str) -> str:
        """URL-safe text of 192 random bits, the same at every start."""
        if name not in self._by_name:
            self._by_name[name] = secrets.token_hex(24)
            self._changed = True
        return self._by_name[name]

    def seed(self, name: str) -> str:
        """Of a user of the bus who signs, the same at every start. What was a password before is one no more."""
        if not nkeys.is_seed(self._by_name.get(name, "")):
            self._by_name[name] = nkeys.seed()
            self._changed = True
        return self._by_name[name]

    def save(self) -> None:
        """Durable, and never readable by others, not even for a moment."""
        if not self._changed:
            return
        draft = self._path.with_suffix(".draft")
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w") as out:
            json.dump(self._by_name, out, indent=2, sort_keys=True)
            out.flush()
            os.fsync(out.fileno())
        os.replace(draft, self._path)
        self._changed = False


def _read(path: Path) -> dict[str, str]:
    """Others in their place would open nothing that the former ones have closed."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        hint = "databases know these passwords: bring the file back, or begin anew with `atoll down --delete-data`"
        raise SystemMistake("the passwords of this system are not readable: this is not JSON", where=str(path), hint=hint)
    return found
