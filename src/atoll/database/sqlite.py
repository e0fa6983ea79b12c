"""SQLite inside the service's process: the embedded default. One replica writes to one file.

Read `sqlite_writer` for how handlers share the one writer. Readers have a connection of their own, which WAL lets read
while the writer writes. `synchronous=FULL`: what was committed survives a loss of power.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final
from urllib.parse import unquote, urlsplit

from atoll.database import migrations
from atoll.database.ports import Encode, Kind, OutboxRow
from atoll.database.rows import plain_all
from atoll.database.sqlite_journal import SqliteJournal
from atoll.database.sqlite_writer import HOLD_S, Writer, outage
from atoll.database.statements import Statements, ended, numbered, outbox_values, publishes_nothing
from atoll.errors import Bug, DatabaseOutage, SystemMistake

__all__ = ["Database", "Transaction"]

_DEFERRED = re.compile(r"\bINITIALLY\s+DEFERRED\b|\bdefer_foreign_keys\b", re.IGNORECASE)
_FRESH, _HELD, _ENDED = range(3)
_MIGRATIONS = """CREATE TABLE IF NOT EXISTS atoll_migration (
    owner TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL, checksum TEXT NOT NULL,
    finished INTEGER NOT NULL, applied_at REAL NOT NULL, PRIMARY KEY (owner, number)
) WITHOUT ROWID"""


class Transaction(Statements):
    """One transaction. It takes SQLite's writer at its first statement; from there on, await nothing but it."""

    _json_is_text: ClassVar[bool] = True

    __slots__ = ("_encode", "_failure", "_outbox", "_state", "_writer", "patient", "task")

    def __init__(self, writer: Writer, encode: Encode, patient: bool = False) -> None:
        self.patient = patient
        self.task: asyncio.Task[Any] | None = None
        self._writer = writer
        self._encode = encode
        self._outbox: list[OutboxRow] = []
        self._state = _FRESH
        self._failure: Exception | None = None

    async def fetch(self, sql: str, *args: Any) -> tuple[tuple[str, ...], Sequence[Sequence[Any]]]:
        """Column names and rows."""
        if self._state != _HELD:
            await self._start()
        cursor = self._writer.cursor
        try:
            rows = cursor.execute(numbered(sql), plain_all(args)).fetchall()
        except sqlite3.Error as error:
            raise self._fault(error) from error
        return _columns(cursor), rows

    async def execute(self, sql: str, *args: Any) -> int:
        """The number of rows inserted, updated or deleted."""
        if self._state != _HELD:
            await self._start()
        cursor = self._writer.cursor
        try:
            cursor.execute(numbered(sql), plain_all(args)).fetchall()
        except sqlite3.Error as error:
            raise self._fault(error) from error
        return max(cursor.rowcount, 0)

    async def publish(self, event: Any) -> None:
        """The event becomes part of this transaction: published after the commit, or never. Order is call order."""
        if self._state == _ENDED:
            raise self._failure or ended()
        self._outbox.append(self._encode(event))

    def expel(self, reason: Exception) -> None:
        """The writer took itself back."""
        self._failure = reason
        self._state = _ENDED

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self._commit()
        elif self._state == _HELD:
            self._state = _ENDED
            self._writer.undo()
        else:
            self._state = _ENDED

    async def _start(self) -> None:
        if self._state == _ENDED:
            raise self._failure or ended()
        self.task = asyncio.current_task()
        await self._writer.take(self)
        self._state = _HELD

    async def _commit(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._state == _FRESH and self._outbox:
            await self._start()
        if self._state != _HELD:
            self._state = _ENDED
            return
        try:
            done = self._writer.leave(outbox_values(self._outbox))
        except sqlite3.Error as error:
            fault = self._fault(error)
            if self._failure is None:
                self._writer.undo()
            raise fault from error
        finally:
            self._state = _ENDED
        await done

    def _fault(self, error: sqlite3.Error) -> Exception:
        """What to raise for a failed statement; SQLite may have rolled back everything."""
        found = outage(error) or error
        if self._writer.lost(error):
            self.expel(found)
        return found


class Reader(Transaction):
    """The same for reading only, each statement on the latest committed state. It never waits for the writer."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database
        self._state = _HELD

    async def fetch(self, sql: str, *args: Any) -> tuple[tuple[str, ...], Sequence[Sequence[Any]]]:
        """Column names and rows. Raises Bug when the statement writes."""
        if self._state == _ENDED:
            raise ended()
        cursor = self._database.read_cursor()
        try:
            rows = cursor.execute(numbered(sql), plain_all(args)).fetchall()
        except sqlite3.Error as error:
            raise _reader_fault(error) from error
        return _columns(cursor), rows

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
    """One file. `url` is `sqlite:///absolute/path.sqlite`; the folder is made when it is missing."""

    kind: Final[Kind] = "sqlite"

    def __init__(self, url: str, encode: Encode) -> None:
        self.path = path_of(url)
        self.journal = SqliteJournal(self)
        self._encode = encode
        self._callbacks: list[Callable[[], None]] = []
        self._writer: Writer | None = None
        self._connections: tuple[sqlite3.Connection, ...] = ()
        self._reading: sqlite3.Cursor | None = None
        self._read_deadline = 0.0

    async def open(self) -> None:
        """Raises DatabaseOutage when the file can't be opened."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            writing, reading = self._connect(), self._connect()
        except (sqlite3.Error, OSError) as error:
            raise DatabaseOutage(f"SQLite can't open {self.path}: {error}") from error
        writing.execute("PRAGMA busy_timeout = 0")
        reading.execute("PRAGMA query_only = ON")
        reading.set_progress_handler(lambda: time.monotonic() > self._read_deadline, 20_000)
        self._connections = (writing, reading)
        self._reading = reading.cursor()
        self._writer = Writer(writing, self._published)

    async def migrate(self, folder: Path | None) -> list[str]:
        """Applies what is pending, in a thread, under the file's lock. Raises SystemMistake that names the file."""
        return await asyncio.to_thread(self._migrate, migrations.owned(self.kind, folder))

    async def pending(self, folder: Path | None) -> list[str]:
        """What `migrate` would apply. Raises SystemMistake that names the file."""
        files = migrations.owned(self.kind, folder)
        try:
            with closing(self._connect()) as connection:
                made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'atoll_migration'").fetchone()
                applied = {owner: _applied(connection, owner) if made else {} for owner in files}
        except sqlite3.Error as error:
            raise outage(error) or error from error
        return migrations.names(files, applied)

    async def close(self) -> None:
        """Waits for the commit in hand."""
        if self._writer is not None:
            writer, self._writer, self._reading = self._writer, None, None
            await writer.close()
        connections, self._connections = self._connections, ()
        for connection in connections:
            connection.close()

    async def ping(self, timeout_s: float = 1.0) -> None:
        """Reads the file. Raises DatabaseOutage."""
        async with self.reader() as reader:
            await reader.scalar("SELECT count(*) FROM sqlite_master")

    def transaction(self, *, patient: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """A transaction. `patient`: other things may be awaited while it holds the writer, for up to 1 s."""
        if self._writer is None:
            raise _closed()
        return Transaction(self._writer, self._encode, patient)

    def reader(self) -> AbstractAsyncContextManager[Transaction]:
        """A reader: never waits for the writer."""
        return Reader(self)

    def on_published(self, callback: Callable[[], None]) -> None:
        """Called on the loop after a commit with outbox rows."""
        self._callbacks.append(callback)

    def read_cursor(self) -> sqlite3.Cursor:
        """The readers' cursor, its time limit started. Raises DatabaseOutage when closed."""
        if self._reading is None:
            raise _closed()
        self._read_deadline = time.monotonic() + HOLD_S
        return self._reading

    def _published(self) -> None:
        for callback in self._callbacks:
            callback()

    def _connect(self, timeout_s: float = 1.0) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _migrate(self, owned: dict[str, list[migrations.Migration]]) -> list[str]:
        try:
            with closing(self._connect(timeout_s=30.0)) as connection:
                connection.execute(_MIGRATIONS)
                return [name for owner, files in owned.items() for name in _migrate(connection, owner, files)]
        except sqlite3.Error as error:
            raise outage(error) or error from error


def path_of(url: str) -> Path:
    """The file of `sqlite:///absolute/path`. Raises SystemMistake."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme != "sqlite" or parts.netloc or not path.startswith("/") or path == "/":
        raise SystemMistake(f"{url!r} is not a SQLite URL", hint="write it as sqlite:///absolute/path.sqlite")
    return Path("/" + path.lstrip("/"))


def _columns(cursor: sqlite3.Cursor) -> tuple[str, ...]:
    return tuple([column[0] for column in cursor.description]) if cursor.description else ()


def _reader_fault(error: sqlite3.Error) -> Exception:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
        return Bug("a reader can't write", hint="GET handlers are given a reader; change things in post, put, patch or delete")
    return outage(error) or error


def _closed() -> DatabaseOutage:
    return DatabaseOutage("the database is not open")


def _migrate(connection: sqlite3.Connection, owner: str, files: list[migrations.Migration]) -> list[str]:
    """One file after the other, each in its own transaction with what was applied read under the lock."""
    names: list[str] = []
    while True:
        connection.execute("BEGIN IMMEDIATE")
        try:
            waiting = migrations.pending(files, _applied(connection, owner))
            if not waiting:
                return names
            _apply(connection, owner, waiting[0])
            if connection.in_transaction:
                connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if owner == migrations.SERVICE:
            names.append(waiting[0].name)


def _applied(connection: sqlite3.Connection, owner: str) -> dict[int, migrations.Applied]:
    rows = connection.execute("SELECT number, name, checksum, finished FROM atoll_migration WHERE owner = ?", (owner,))
    return {row[0]: migrations.Applied(row[0], row[1], row[2], bool(row[3])) for row in rows}


def _apply(connection: sqlite3.Connection, owner: str, migration: migrations.Migration) -> None:
    if deferred := _DEFERRED.search(migration.text):
        # Handlers share commits: one that breaks a deferred constraint would take the others' changes down with its own.
        line = migration.text.count("\n", 0, deferred.start()) + 1
        raise migrations.failed(migration, Bug("a constraint of a SQLite service is checked at once, not at the commit"), line)
    if not migration.transactional:
        _record(connection, owner, migration, finished=False)
        connection.execute("COMMIT")
    for line, statement in _statements(migration.text):
        try:
            connection.execute(statement)
        except sqlite3.Error as error:
            raise migrations.failed(migration, error, line) from error
        if migration.transactional and not connection.in_transaction:
            raise migrations.failed(migration, Bug("it ends the transaction that it is applied in"), line)
    _record(connection, owner, migration, finished=True)


def _record(connection: sqlite3.Connection, owner: str, migration: migrations.Migration, *, finished: bool) -> None:
    row = (owner, migration.number, migration.name, migration.checksum, finished, time.time())
    connection.execute("INSERT OR REPLACE INTO atoll_migration VALUES (?, ?, ?, ?, ?, ?)", row)


def _statements(text: str) -> list[tuple[int, str]]:
    """The statements of a script with the line each begins on; SQLite itself says where one is complete."""
    found: list[tuple[int, str]] = []
    start = end = 0
    while (end := text.find(";", end)) != -1:
        end += 1
        if sqlite3.complete_statement(text[start:end]):
            found.append((_line(text, start), text[start:end]))
            start = end
    if text[start:].strip():
        found.append((_line(text, start), text[start:]))
    return found


def _line(text: str, start: int) -> int:
    blank = len(text[start:]) - len(text[start:].lstrip())
    return text.count("\n", 0, start + blank) + 1
