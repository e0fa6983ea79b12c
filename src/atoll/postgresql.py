"""What a service on PostgreSQL imports: `from atoll.postgresql import Transaction`."""

from __future__ import annotations

from atoll.database.postgresql import Database, Transaction

__all__ = ["Database", "Transaction"]
