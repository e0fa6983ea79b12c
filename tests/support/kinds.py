"""The kinds of database, each with the few operations that the contract suite needs; to add one, add it to KINDS.

The suite's data is rows of (key, n), and one counter per key.
"""

from __future__ import annotations

import os
import signal
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import event, text

from atoll.database import mongodb, open_database
from atoll.database.ports import Database, Encode, OutboxRow

__all__ = ["KINDS", "Kind", "Told", "encode", "kind_of"]


class Told(NamedTuple):
    """The suite's event."""

    key: str
    n: int


def encode(told: Told) -> OutboxRow:
    """What the service runtime does for real events."""
    return OutboxRow(
        id=str(uuid.uuid4()),
        subject="event.test.told.0",
        key=told.key,
        headers=b"ce-type: test.told\r\n",
        body=f"{told.key}:{told.n}".encode(),
    )


def die() -> None:
    """kill -9 of this process, by itself."""
    os.kill(os.getpid(), signal.SIGKILL)


class Kind(ABC):
    """One kind on one empty database. Several databases may be opened on it: they stand for several processes."""

    name: ClassVar[str]
    engine: ClassVar[str]
    unreachable: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url

    def database(self, encode: Encode = encode) -> Database:
        """Not open yet."""
        opened: Database = open_database(self.url, encode)
        return opened

    @abstractmethod
    async def create(self, database: Database) -> None:
        """Tables of the suite."""

    @abstractmethod
    async def insert(self, tx: Any, key: str, n: int) -> None:
        """One more row."""

    @abstractmethod
    async def raise_counter(self, tx: Any, key: str) -> int:
        """Locks the counter of `key` until the end of the transaction; its new value, from 1."""

    @abstractmethod
    async def rows(self, tx: Any) -> list[tuple[str, int]]:
        """All rows, by key and n."""

    @abstractmethod
    async def history(self, tx: Any) -> list[tuple[str, int]]:
        """All rows, in the order in which this process inserted them."""

    @abstractmethod
    async def die_before_commit(self, database: Database) -> None:
        """The next transaction with an event kills this process after its outbox rows were written, before it commits."""

    @abstractmethod
    def migration(self, number: int, table: str) -> tuple[str, str]:
        """File name and text of a migration that makes `table`, which the suite then finds with `has_table`."""

    @abstractmethod
    def broken_migration(self, number: int, table: str) -> tuple[str, str]:
        """One that makes `table` and then fails."""

    @abstractmethod
    async def has_table(self, database: Database, table: str) -> bool: ...


class _Sql(Kind):
    _identity: ClassVar[str]

    async def create(self, database: Database) -> None:
        async with database.transaction() as tx:
            await tx.execute(f"CREATE TABLE told ({self._identity}, key TEXT NOT NULL, n INTEGER NOT NULL)")
            await tx.execute("CREATE TABLE counter (key TEXT PRIMARY KEY, n INTEGER NOT NULL)")

    async def insert(self, tx: Any, key: str, n: int) -> None:
        await tx.execute("INSERT INTO told (key, n) VALUES ($1, $2)", key, n)

    async def raise_counter(self, tx: Any, key: str) -> int:
        sql = """INSERT INTO counter (key, n) VALUES ($1, 1)
            ON CONFLICT (key) DO UPDATE SET n = counter.n + 1 RETURNING n"""
        value: int = await tx.scalar(sql, key)
        return value

    async def rows(self, tx: Any) -> list[tuple[str, int]]:
        return [(row["key"], row["n"]) for row in await tx.all(dict, "SELECT key, n FROM told ORDER BY key, n")]

    async def history(self, tx: Any) -> list[tuple[str, int]]:
        return [(row["key"], row["n"]) for row in await tx.all(dict, "SELECT key, n FROM told ORDER BY id")]

    def migration(self, number: int, table: str) -> tuple[str, str]:
        return f"{number:04}_{table}.sql", f"-- makes {table}\nCREATE TABLE {table} (id INTEGER);\n"

    def broken_migration(self, number: int, table: str) -> tuple[str, str]:
        name, text = self.migration(number, table)
        return name, f"{text}\nINSERT INTO nowhere VALUES (1);\n"


class Sqlite(_Sql):
    """A file."""

    name = engine = "sqlite"
    unreachable = "sqlite:///dev/null/there.sqlite"
    _identity = "id INTEGER PRIMARY KEY"

    async def die_before_commit(self, database: Database) -> None:
        connection = database._connections[0]  # type: ignore[attr-defined]
        connection.set_trace_callback(lambda sql: die() if sql == "COMMIT" else None)

    async def has_table(self, database: Database, table: str) -> bool:
        async with database.reader() as reader:
            return bool(await reader.scalar("SELECT count(*) FROM sqlite_master WHERE name = $1", table))


class PostgreSQL(_Sql):
    """A database with its own role."""

    name = engine = "postgresql"
    unreachable = "postgresql://a:b@127.0.0.1:1/a"
    _identity = "id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"

    async def die_before_commit(self, database: Database) -> None:
        async with database.transaction() as tx:
            await tx.execute("""CREATE FUNCTION say_it() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN
                    -- the rest of the client's message may be a COMMIT: only a client found dead is rolled back
                    PERFORM set_config('client_connection_check_interval', '20', true);
                    RAISE WARNING 'outbox written'; PERFORM pg_sleep(5); RETURN NULL;
                END $$""")
            await tx.execute("CREATE TRIGGER say_it AFTER INSERT ON atoll.outbox EXECUTE FUNCTION say_it()")
        (connection,) = database._writers._idle  # type: ignore[attr-defined]
        connection.add_log_listener(lambda _connection, _message: die())

    async def has_table(self, database: Database, table: str) -> bool:
        async with database.reader() as reader:
            return await reader.scalar("SELECT to_regclass($1)::text", table) is not None


class SqlAlchemy(PostgreSQL):
    """The same database through SQLAlchemy sessions."""

    name = "sqlalchemy"

    def database(self, encode: Encode = encode) -> Database:
        opened: Database = open_database(self.url, encode, sqlalchemy=True)
        return opened

    async def create(self, database: Database) -> None:
        async with database.transaction() as session:
            await session.execute(text(f"CREATE TABLE told ({self._identity}, key TEXT NOT NULL, n INTEGER NOT NULL)"))
            await session.execute(text("CREATE TABLE counter (key TEXT PRIMARY KEY, n INTEGER NOT NULL)"))

    async def insert(self, tx: Any, key: str, n: int) -> None:
        await tx.execute(text("INSERT INTO told (key, n) VALUES (:key, :n)"), {"key": key, "n": n})

    async def raise_counter(self, tx: Any, key: str) -> int:
        sql = """INSERT INTO counter (key, n) VALUES (:key, 1)
            ON CONFLICT (key) DO UPDATE SET n = counter.n + 1 RETURNING n"""
        value: int = await tx.scalar(text(sql), {"key": key})
        return value

    async def rows(self, tx: Any) -> list[tuple[str, int]]:
        found = await tx.execute(text("SELECT key, n FROM told ORDER BY key, n"))
        return [(row.key, row.n) for row in found]

    async def history(self, tx: Any) -> list[tuple[str, int]]:
        found = await tx.execute(text("SELECT key, n FROM told ORDER BY id"))
        return [(row.key, row.n) for row in found]

    async def die_before_commit(self, database: Database) -> None:
        event.listen(database._writers.sync_engine, "commit", lambda _connection: die())  # type: ignore[attr-defined]

    async def has_table(self, database: Database, table: str) -> bool:
        async with database.reader() as session:
            return await session.scalar(text("SELECT to_regclass(:name)::text"), {"name": table}) is not None


class MongoDB(Kind):
    """A database with its own user. Its tables are collections."""

    name = engine = "mongodb"
    unreachable = "mongodb://a:b@127.0.0.1:1/a"

    async def create(self, database: Database) -> None:
        assert isinstance(database, mongodb.Database)
        for collection in ("told", "counter"):
            await database.make(collection)

    async def insert(self, tx: Any, key: str, n: int) -> None:
        await tx.insert("told", {"key": key, "n": n})

    async def raise_counter(self, tx: Any, key: str) -> int:
        counters = tx.collection("counter")
        counter = await counters.find_one_and_update({"_id": key}, {"$inc": {"n": 1}}, upsert=True, return_document=True)
        value: int = counter["n"]
        return value

    async def rows(self, tx: Any) -> list[tuple[str, int]]:
        return [(row["key"], row["n"]) for row in await tx.all(dict, "told", sort=("key", "n"))]

    async def history(self, tx: Any) -> list[tuple[str, int]]:
        return [(row["key"], row["n"]) for row in await tx.all(dict, "told", sort=("_id",))]

    async def die_before_commit(self, database: Database) -> None:
        async def die_instead(session: Any) -> None:
            die()

        mongodb._commit = die_instead

    def migration(self, number: int, table: str) -> tuple[str, str]:
        return f"{number:04}_{table}.py", f"async def migrate(database):\n    await database.make({table!r})\n"

    def broken_migration(self, number: int, table: str) -> tuple[str, str]:
        name, text = self.migration(number, table)
        return name, f"{text}    raise LookupError('nowhere')\n"

    async def has_table(self, database: Database, table: str) -> bool:
        assert isinstance(database, mongodb.Database)
        return table in await database.raw.list_collection_names()


KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Sqlite, PostgreSQL, SqlAlchemy, MongoDB)}


def kind_of(name: str, url: str) -> Kind:
    return KINDS[name](url)


def write(folder: Path, file: tuple[str, str]) -> Path:
    """A migration's file in `folder`, which is made when it is missing."""
    folder.mkdir(exist_ok=True)
    path = folder / file[0]
    path.write_text(file[1])
    return path
