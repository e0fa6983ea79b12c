"""Real databases for tests, by kind, with one table to write effects into."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from atoll.database.ports import Database, Encode


class Sql:
    """Effects as rows of the table `effect (key, n)`, in the order they were committed."""

    async def create(self, database: Database) -> None:
        async with database.transaction() as tx:
            identity = "BIGSERIAL" if database.kind == "postgresql" else "INTEGER"
            await tx.execute(f"CREATE TABLE effect (position {identity} PRIMARY KEY, key TEXT NOT NULL, n INTEGER NOT NULL)")

    async def record(self, tx: Any, key: str, n: int) -> None:
        await tx.execute("INSERT INTO effect (key, n) VALUES ($1, $2)", key, n)

    async def recorded(self, database: Database) -> list[tuple[str, int]]:
        async with database.reader() as reader:
            rows = await reader.all(dict, "SELECT key, n FROM effect ORDER BY position")
            return [(row["key"], row["n"]) for row in rows]


@contextlib.asynccontextmanager
async def opened(kind: str, folder: Path, encode: Encode) -> AsyncIterator[tuple[Database, Sql]]:
    """An open, migrated database of its own for one test."""
    from atoll.database.sqlite import Database as Sqlite

    assert kind == "sqlite"
    database = Sqlite(f"sqlite://{folder}/test.sqlite", encode)
    await database.open()
    await database.migrate(None)
    sql = Sql()
    await sql.create(database)
    try:
        yield database, sql
    finally:
        await database.close()
