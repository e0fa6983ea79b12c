"""One service's own database: transactions with an outbox, and the journal that delivery works on.

The rule: an event is part of the transaction that caused it, or it doesn't exist. Outbox rows are the last statements before
COMMIT; what a consumer has handled is recorded in the transaction of its effects.

Read `ports` first, then one kind: `sqlite` (`sqlite_writer` is its heart) or `postgresql`. Drivers are imported when a
database of their kind is opened, not before.
"""

from __future__ import annotations

from typing import Any

from atoll.errors import SystemMistake

__all__ = ["open_database"]


def open_database(url: str, encode: Any, *, sqlalchemy: bool = False) -> Any:
    """The `ports.Database` for `url`, chosen by its scheme; not connected yet. Raises SystemMistake for another scheme.

    `sqlalchemy`: transactions are SQLAlchemy sessions.
    """
    scheme = url.partition(":")[0]
    match scheme:
        case "postgresql" | "postgres" if sqlalchemy:
            from atoll.database.sqlalchemy import Database as SqlAlchemy

            return SqlAlchemy(url, encode)
        case "postgresql" | "postgres":
            from atoll.database.postgresql import Database as PostgreSQL

            return PostgreSQL(url, encode)
        case "sqlite":
            from atoll.database.sqlite import Database as SQLite

            return SQLite(url, encode)
        case "mongodb":
            from atoll.database.mongodb import Database as MongoDB

            return MongoDB(url, encode)
    raise SystemMistake(f"no kind of database has the scheme {scheme!r}", hint="postgresql://, sqlite:/// or mongodb://")
