"""What a service on SQLite imports: `from atoll.sqlite import Transaction`."""

from __future__ import annotations

from atoll.database.sqlite import Database, Transaction

__all__ = ["Database", "Transaction"]
