"""PostgreSQL through asyncpg. Read committed, as PostgreSQL has it by default.

A transaction begins at its first statement and ends with its outbox rows and COMMIT; the connection goes back without a
reset query. Readers have connections of their own on which the server refuses writes, and need no BEGIN.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from atoll.database import migrations
from atoll.database.ports import Encode, Kind, OutboxRow
from atoll.database.postgresql_journal import PostgresJournal
from atoll.database.statements import Statements, checked, ended, publishes_nothing
from atoll.errors import Bug, DatabaseOutage, SystemMistake

if TYPE_CHECKING:
    import asyncpg

    from atoll.database.postgresql_pool import Pool

__all__ = ["MIGRATION_LOCK", "WRITE_OUTBOX", "Database", "Transaction"]

_FRESH, _STARTING, _OPEN, _ENDED = range(4)
_WRITERS = 8
_READERS = 4
# Any number will do, as long as every version of atoll uses the same one: "atoll" in ASCII.
MIGRATION_LOCK = 0x61746F6C6C
_LITERAL_BYTES = 16_384
WRITE_OUTBOX = """INSERT INTO atoll.outbox (id, subject, key, headers, body)
SELECT id, subject, key, headers, body
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[])
    WITH ORDINALITY AS event (id, subject, key, headers, body, place)
ORDER BY place"""
_MIGRATIONS = """CREATE SCHEMA IF NOT EXISTS atoll;
CREATE TABLE IF NOT EXISTS atoll.migration (
    owner text, number integer, name text NOT NULL, checksum text NOT NULL,
    finished boolean NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (owner, number)
)"""

Rows = tuple[tuple[str, ...], Sequence[Sequence[Any]]]


class Transaction(Statements):
    """One transaction. It begins at its first statement; returning commits, raising rolls back."""

    __slots__ = ("_connection", "_database", "_outbox", "_pool", "_state")

    def __init__(self, database: Database, pool: Pool) -> None:
        self._database = database
        self._pool = pool
        self._outbox: list[OutboxRow] = []
        self._state = _FRESH
        self._connection: asyncpg.Connection[Any]

    async def fetch(self, sql: str, *args: Any) -> Rows:
        """Column names and rows."""
        if self._state != _OPEN:
            await self._start()
        try:
            rows = await self._connection.fetch(checked(sql), *args)
        except Exception as error:
            raise self._database.fault(error) from error
        return (tuple(rows[0].keys()), rows) if rows else ((), ())

    async def execute(self, sql: str, *args: Any) -> int:
        """The number of rows inserted, updated or deleted."""
        if self._state != _OPEN:
            await self._start()
        try:
            status = await self._connection.execute(checked(sql), *args)
        except Exception as error:
            raise self._database.fault(error) from error
        return _count(status)

    async def publish(self, event: Any) -> None:
        """The event becomes part of this transaction: published after the commit, or never. Order is call order."""
        if self._state == _ENDED:
            raise ended()
        self._outbox.append(self._database.encode(event))

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._state == _FRESH and self._outbox:
            await self._start()
        state, self._state = self._state, _ENDED
        if state != _OPEN:
            return
        if error is None:
            await self._commit()
        elif isinstance(error, asyncio.CancelledError):
            self._pool.clean_up(self._connection)
        else:
            await self._roll_back()

    async def _start(self) -> None:
        if self._state == _STARTING:
            raise Bug("two statements at once in one transaction", hint="await one after the other")
        if self._state == _ENDED:
            raise ended()
        self._state = _STARTING
        try:
            self._connection = await self._database.begin(self._pool)
        except BaseException:
            self._state = _FRESH
            raise
        self._state = _OPEN

    async def _commit(self) -> None:
        connection = self._connection
        try:
            ending = _outbox_and_commit(self._outbox) if self._outbox else "COMMIT"
            if ending is None:
                await self._write_outbox()
                ending = "COMMIT"
            status = await connection.execute(ending)
        except asyncio.CancelledError:
            self._pool.clean_up(connection)
            raise
        except Exception as error:
            await self._roll_back()
            raise self._database.fault(error) from error
        self._pool.release(connection)
        if status != "COMMIT":
            raise Bug(
                "a statement failed, its error was caught, and so PostgreSQL rolled the transaction back",
                hint="let the error raise, or say ON CONFLICT so that the statement does not fail",
            )
        if self._outbox:
            self._database.published()

    async def _write_outbox(self) -> None:
        columns = zip(*((row.id, row.subject, row.key, row.headers, row.body) for row in self._outbox), strict=True)
        await self._connection.execute(WRITE_OUTBOX, *columns)

    async def _roll_back(self) -> None:
        """Never hides the error that leads here."""
        connection = self._connection
        if connection.is_closed():
            self._pool.discard(connection)
            return
        try:
            await connection.execute("ROLLBACK")
        except asyncio.CancelledError:
            self._pool.discard(connection)
            raise
        except Exception:
            self._pool.discard(connection)
        else:
            self._pool.release(connection)


class Reader(Transaction):
    """The same for reading only: each statement sees what was committed before it began."""

    __slots__ = ()

    async def fetch(self, sql: str, *args: Any) -> Rows:
        """Column names and rows. Raises Bug when the statement writes."""
        if self._state == _ENDED:
            raise ended()
        return await self._database.run(self._pool, checked(sql), args, again=True)

    async def execute(self, sql: str, *args: Any) -> int:
        """Runs a statement that changes nothing. Raises Bug when it writes."""
        await self.fetch(sql, *args)
        return 0

    async def publish(self, event: Any) -> None:
        """Raises Bug: a reader changes nothing."""
        raise publishes_nothing()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state = _ENDED


class Database:
    """One database on a server. `url` is what asyncpg takes: `postgresql://user:password@host:port/name`."""

    kind: Final[Kind] = "postgresql"

    def __init__(self, url: str, encode: Encode) -> None:
        self.url = url
        self.encode = encode
        self.journal = PostgresJournal(self.statement)
        self._callbacks: list[Callable[[], None]] = []
        self._writers: Pool | None = None
        self._readers: Pool | None = None

    async def open(self) -> None:
        """Connects once. Raises DatabaseOutage, SystemMistake when the driver is not installed."""
        pool = _driver()
        self.fault = pool.fault
        self._writers = pool.Pool(self.url, _WRITERS, {})
        self._readers = pool.Pool(self.url, _READERS, {"default_transaction_read_only": "on"})
        try:
            await self.ping(timeout_s=5.0)
        except DatabaseOutage:
            await self.close()
            raise

    async def migrate(self, folder: Path | None) -> list[str]:
        """Applies what is pending, under an advisory lock. Raises SystemMistake that names the file."""
        owned = migrations.owned(self.kind, folder)
        connection = await _driver().connect(self.url, {"statement_timeout": "0", "lock_timeout": "0"})
        try:
            await connection.execute(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
            if not await connection.fetchval("SELECT to_regclass('atoll.migration') IS NOT NULL"):
                await connection.execute(_MIGRATIONS)
            return [name for owner, files in owned.items() for name in await _migrate(connection, owner, files)]
        finally:
            await connection.close(timeout=2.0)

    async def pending(self, folder: Path | None) -> list[str]:
        """What `migrate` would apply. Raises SystemMistake that names the file."""
        connection = await _driver().connect(self.url, {})
        try:
            made = await connection.fetchval("SELECT to_regclass('atoll.migration') IS NOT NULL")
            applied = {owner: await _applied(connection, owner) if made else {} for owner in migrations.OWNERS}
            return migrations.names(migrations.owned(self.kind, folder), applied)
        finally:
            await connection.close(timeout=2.0)

    async def close(self) -> None:
        """Closes every connection."""
        for pool in (self._writers, self._readers):
            if pool is not None:
                await pool.close()
        self._writers = self._readers = None

    async def ping(self, timeout_s: float = 1.0) -> None:
        """Raises DatabaseOutage when the server can't answer."""
        try:
            async with asyncio.timeout(timeout_s), self.reader() as reader:
                await reader.scalar("SELECT 1")
        except TimeoutError:
            raise DatabaseOutage(f"PostgreSQL did not answer within {timeout_s:g} s") from None

    def transaction(self, *, patient: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """A transaction; `patient` makes no difference here."""
        return Transaction(self, _opened(self._writers))

    def reader(self) -> AbstractAsyncContextManager[Transaction]:
        """A reader, on connections of its own."""
        return Reader(self, _opened(self._readers))

    def on_published(self, callback: Callable[[], None]) -> None:
        """Called on the loop after a commit with outbox rows."""
        self._callbacks.append(callback)

    async def statement(self, sql: str, *args: Any) -> Rows:
        """One statement that is a transaction of its own: what the journal's short ones are."""
        return await self.run(_opened(self._writers), sql, args)

    async def begin(self, pool: Pool) -> asyncpg.Connection[Any]:
        """A connection in a transaction. One that died while it was idle is replaced without anybody's notice."""
        while True:
            connection, fresh = await pool.acquire()
            try:
                await connection.execute("BEGIN")
            except asyncio.CancelledError:
                pool.clean_up(connection)
                raise
            except Exception as error:
                pool.discard(connection)
                if fresh:
                    raise self.fault(error) from error
            else:
                return connection

    async def run(self, pool: Pool, sql: str, args: Sequence[Any], *, again: bool = False) -> Rows:
        """One statement by itself. `again`: it may be repeated when an idle connection turns out to be dead."""
        while True:
            connection, fresh = await pool.acquire()
            try:
                rows = await connection.fetch(sql, *args)
            except asyncio.CancelledError:
                pool.clean_up(connection)
                raise
            except Exception as error:
                pool.give_back(connection, error)
                if fresh or not (again and connection.is_closed()):
                    raise self.fault(error) from error
            else:
                pool.release(connection)
                return (tuple(rows[0].keys()), rows) if rows else ((), ())

    def published(self) -> None:
        """Tells the relay."""
        for callback in self._callbacks:
            callback()


def _outbox_and_commit(rows: Sequence[OutboxRow]) -> str | None:
    """One message to the server instead of two; None when the rows are better sent as parameters.

    Literals say E'…', whose escapes mean the same whatever `standard_conforming_strings` is.
    """
    if sum(len(row.body) for row in rows) > _LITERAL_BYTES or any("\0" in row.key for row in rows):
        return None
    values = ", ".join(
        f"({_literal(row.id)}, {_literal(row.subject)}, {_literal(row.key)}, "
        f"E'\\\\x{row.headers.hex()}', E'\\\\x{row.body.hex()}')"
        for row in rows
    )
    return f"INSERT INTO atoll.outbox (id, subject, key, headers, body) VALUES {values}; COMMIT"


def _literal(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _opened(pool: Pool | None) -> Pool:
    if pool is None:
        raise DatabaseOutage("the database is not open")
    return pool


def _driver() -> Any:
    """The module that imports asyncpg."""
    try:
        from atoll.database import postgresql_pool
    except ImportError as error:
        raise SystemMistake("asyncpg is not installed", hint='pip install "atoll[postgresql]"') from error
    return postgresql_pool


def _count(status: str) -> int:
    """`INSERT 0 3`, `UPDATE 3`: 3; `CREATE TABLE`: 0; what SELECT reads doesn't count."""
    verb, _, last = status.rpartition(" ")
    return int(last) if last.isdigit() and not verb.startswith("SELECT") else 0


async def _migrate(connection: asyncpg.Connection[Any], owner: str, files: list[migrations.Migration]) -> list[str]:
    waiting = migrations.pending(files, await _applied(connection, owner))
    for migration in waiting:
        await _apply(connection, owner, migration)
    return [migration.name for migration in waiting] if owner == migrations.SERVICE else []


async def _applied(connection: asyncpg.Connection[Any], owner: str) -> dict[int, migrations.Applied]:
    rows = await connection.fetch("SELECT number, name, checksum, finished FROM atoll.migration WHERE owner = $1", owner)
    return {row["number"]: migrations.Applied(*row) for row in rows}


async def _apply(connection: asyncpg.Connection[Any], owner: str, migration: migrations.Migration) -> None:
    import asyncpg

    try:
        if migration.transactional:
            async with connection.transaction():
                await connection.execute(migration.text)
                await _record(connection, owner, migration, finished=True)
        else:
            await _record(connection, owner, migration, finished=False)
            await connection.execute(migration.text)
            await _record(connection, owner, migration, finished=True)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise migrations.failed(migration, error, _line(migration.text, error)) from error


async def _record(connection: asyncpg.Connection[Any], owner: str, migration: migrations.Migration, *, finished: bool) -> None:
    await connection.execute(
        """INSERT INTO atoll.migration (owner, number, name, checksum, finished) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (owner, number) DO UPDATE SET checksum = $4, finished = $5""",
        owner,
        migration.number,
        migration.name,
        migration.checksum,
        finished,
    )


def _line(text: str, error: Exception) -> int | None:
    """The line that the server points at."""
    position = getattr(error, "position", None)
    return text.count("\n", 0, int(position) - 1) + 1 if position else None
