"""The provider's own books: one append-only SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

__all__ = ["Ledger", "Refusal"]

_TABLE = """
CREATE TABLE IF NOT EXISTS entry (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL UNIQUE,
    kind        TEXT NOT NULL CHECK (kind IN ('charge', 'refund')),
    key         TEXT NOT NULL UNIQUE,
    charge      TEXT REFERENCES entry (id),
    reference   TEXT NOT NULL,
    amount      TEXT NOT NULL,
    currency    TEXT NOT NULL,
    method      TEXT NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('approved', 'declined')),
    made_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE UNIQUE INDEX IF NOT EXISTS one_refund_per_charge ON entry (charge) WHERE kind = 'refund';
"""
_ASKED = ("kind", "charge", "reference", "amount", "currency", "method")


class Refusal(Exception):
    """The provider won't do this; `status` is the HTTP status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Ledger:
    """Charges and refunds. Every method is one transaction, committed when it returns; safe to kill at any moment."""

    def __init__(self, path: Path | str) -> None:
        if path != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._file.row_factory = sqlite3.Row
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = NORMAL")
        self._file.executescript(_TABLE)

    def charge(self, key: str, asked: Mapping[str, str]) -> tuple[dict[str, Any], bool]:
        """The entry of `key`, and whether this call made it. Raises Refusal when `key` stands for something else."""
        status = "declined" if asked["method"] == "card-declined" else "approved"
        return self._write(key, {**asked, "kind": "charge", "charge": None, "status": status})

    def refund(self, key: str, charge_id: str) -> tuple[dict[str, Any], bool]:
        """Gives the whole charge back, once. Raises Refusal: no such charge, nothing was charged, or refunded before."""
        charge = self._file.execute("SELECT * FROM entry WHERE id = ? AND kind = 'charge'", (charge_id,)).fetchone()
        if charge is None:
            raise Refusal(404, f"there is no charge {charge_id}")
        if charge["status"] != "approved":
            raise Refusal(409, f"charge {charge_id} was declined: there is nothing to give back")
        return self._write(
            key,
            {
                "kind": "refund",
                "charge": charge_id,
                "status": "approved",
                **{name: charge[name] for name in ("reference", "amount", "currency", "method")},
            },
        )

    def entries(self, after: int = 0) -> list[dict[str, Any]]:
        rows = self._file.execute("SELECT * FROM entry WHERE number > ? ORDER BY number", (after,))
        return [dict(row) for row in rows]

    def close(self) -> None:
        self._file.close()

    def _write(self, key: str, entry: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        columns = {"id": f"{str(entry['kind'])[:2]}_{uuid4().hex}", "key": key, **entry}
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        try:
            self._file.execute(f"INSERT INTO entry ({names}) VALUES ({marks})", tuple(columns.values()))
            made = True
        except sqlite3.IntegrityError:
            made = False
        row = self._file.execute("SELECT * FROM entry WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise Refusal(409, f"charge {entry['charge']} has been refunded under another key")
        if any(row[name] != entry[name] for name in _ASKED):
            raise Refusal(422, f"the key {key} was used for another request")
        return dict(row), made
