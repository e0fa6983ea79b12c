"""PostgreSQL through SQLAlchemy: a handler's transaction is an AsyncSession that can publish.

Flushing comes before the outbox rows, and those go through the session's own connection, so they are its last statements
before COMMIT. What delivery does outside a handler's transaction uses asyncpg directly, as `postgresql` does: same tables,
same statements, a fifth of the cost. Importing this module imports SQLAlchemy; nothing else in atoll does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

from sqlalchemy import event, orm
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from atoll.database import postgresql
from atoll.database.ports import Encode, Kind, OutboxRow
from atoll.database.statements import ended, publishes_nothing
from atoll.errors import Bug, DatabaseOutage
from atoll.system.budgets import BUDGETS

__all__ = ["Database", "Session"]

_WRITERS = 8
_READERS = 4
Rows = tuple[tuple[str, ...], Sequence[Sequence[Any]]]


class _Sync(orm.Session):
    """What an AsyncSession is made of; knows that it has ended."""

    ended = False


@event.listens_for(_Sync, "after_transaction_create")
def _refuse_after_end(session: _Sync, _transaction: Any) -> None:
    if session.ended:
        raise ended()


class Session(AsyncSession):
    """One transaction. It begins at its first statement; returning commits, raising rolls back.

    Everything an AsyncSession has, except that beginning and ending are atoll's: `begin_nested()` gives savepoints. Objects
    stay readable after the commit.
    """

    sync_session_class = _Sync
    sync_session: _Sync

    def __init__(self, engine: AsyncEngine, encode: Encode) -> None:
        super().__init__(engine, expire_on_commit=False)
        self._encode = encode
        self._outbox: list[OutboxRow] = []

    async def publish(self, event: Any) -> None:
        """The event becomes part of this transaction: published after the commit, or never. Order is call order."""
        if self.sync_session.ended:
            raise ended()
        self._outbox.append(self._encode(event))

    async def fetch(self, sql: str, *args: Any) -> Rows:
        """One statement of PostgreSQL's own (`$1`, `$2`, …) on this session's connection, after what is pending was flushed.

        Column names and rows. It is what delivery needs of a transaction.
        """
        await self.flush()
        result = await (await self.connection()).exec_driver_sql(sql, args)
        return (tuple(result.keys()), result.all()) if result.returns_rows else ((), ())

    async def commit(self) -> NoReturn:
        """Raises Bug: returning commits."""
        raise _not_yours("commit")

    async def rollback(self) -> NoReturn:
        """Raises Bug: raising rolls back."""
        raise _not_yours("rollback")

    def begin(self) -> NoReturn:
        """Raises Bug: it begins by itself."""
        raise _not_yours("begin")

    async def finish(self) -> bool:
        """Flush, outbox rows, COMMIT; True when there are events. atoll calls it."""
        await self.flush()
        if self._outbox:
            columns = zip(*((row.id, row.subject, row.key, row.headers, row.body) for row in self._outbox), strict=True)
            await self.fetch(postgresql.WRITE_OUTBOX, *map(list, columns))
        await super().commit()
        return bool(self._outbox)

    async def end(self) -> None:
        """Gives the connection back; rolls back what was not committed. atoll calls it."""
        self.sync_session.ended = True
        await asyncio.shield(super().close())


class Reader(Session):
    """The same for reading only: each statement sees what was committed before it began, and PostgreSQL refuses writes."""

    async def publish(self, event: Any) -> None:
        """Raises Bug: a reader changes nothing."""
        raise publishes_nothing()

    async def finish(self) -> bool:
        """Flushes, so that a change is refused instead of forgotten."""
        await self.flush()
        return False


class Database:
    """One database on a server. `url` is what asyncpg takes: `postgresql://user:password@host:port/name`."""

    kind: Final[Kind] = "postgresql"

    def __init__(self, url: str, encode: Encode) -> None:
        self.url = url
        self._encode = encode
        self._plain = postgresql.Database(url, encode)
        self._writers: AsyncEngine | None = None
        self._readers: AsyncEngine | None = None
        self.journal = self._plain.journal

    async def open(self) -> None:
        """Connects once. Raises DatabaseOutage, SystemMistake when a driver is not installed."""
        await self._plain.open()
        self._writers = _engine(self.url, _WRITERS, {})
        self._readers = _engine(self.url, _READERS, {"default_transaction_read_only": "on"}, isolation_level="AUTOCOMMIT")

    async def migrate(self, folder: Path | None) -> list[str]:
        """atoll's own tables, then the service's: an Alembic folder (it has `env.py`), or numbered SQL files.

        Raises SystemMistake that names the file.
        """
        if folder is None or not (folder / "env.py").is_file():
            return await self._plain.migrate(folder)
        from atoll.database import alembic

        await self._plain.migrate(None)
        return await asyncio.to_thread(alembic.upgrade, folder, self.url)

    async def pending(self, folder: Path | None) -> list[str]:
        """What `migrate` would apply. Raises SystemMistake that names the file."""
        if folder is None or not (folder / "env.py").is_file():
            return await self._plain.pending(folder)
        from atoll.database import alembic

        return [*await self._plain.pending(None), *await alembic.pending(folder, self.url)]

    async def close(self) -> None:
        """Closes every connection."""
        for engine in (self._writers, self._readers):
            if engine is not None:
                await engine.dispose()
        self._writers = self._readers = None
        await self._plain.close()

    async def ping(self, timeout_s: float = 1.0) -> None:
        """Raises DatabaseOutage when the server can't answer."""
        await self._plain.ping(timeout_s)

    def transaction(self, *, patient: bool = False) -> AbstractAsyncContextManager[Session]:
        """A Session; `patient` makes no difference here."""
        return self._used(Session(_opened(self._writers), self._encode))

    def reader(self) -> AbstractAsyncContextManager[Session]:
        """A Session on connections that can't write."""
        return self._used(Reader(_opened(self._readers), self._encode))

    def on_published(self, callback: Callable[[], None]) -> None:
        """Called on the loop after a commit with outbox rows."""
        self._plain.on_published(callback)

    @asynccontextmanager
    async def _used(self, session: Session) -> AsyncIterator[Session]:
        try:
            yield session
            published = await session.finish()
        finally:
            await session.end()
        if published:
            self._plain.published()


class _Pool(AsyncAdaptedQueuePool):
    """A pool that is exhausted is an outage like any other."""

    def _do_get(self) -> Any:
        try:
            return super()._do_get()
        except PoolTimeout as error:
            raise DatabaseOutage(f"all connections were busy for {BUDGETS.statement_s:g} s") from error


def _engine(url: str, size: int, settings: dict[str, str], **options: Any) -> AsyncEngine:
    from atoll.database import postgresql_pool

    async def connect() -> Any:
        return await postgresql_pool.connect(url, {**postgresql_pool.LIMITS, **settings}, BUDGETS.statement_s + 1.0)

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        poolclass=_Pool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=BUDGETS.statement_s,
        pool_use_lifo=True,
        **options,
    )
    event.listen(engine.sync_engine, "checkout", _replace_dead)
    event.listen(engine.sync_engine, "handle_error", _translate)
    return engine


def _replace_dead(connection: Any, _record: Any, _proxy: Any) -> None:
    """A connection that died while it was idle is replaced without anybody's notice; costs no round trip."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _translate(context: Any) -> None:
    """The driver's errors as atoll's, where the world is to blame; a wrong statement stays what SQLAlchemy makes of it."""
    from atoll.database import postgresql_pool

    original = context.original_exception
    cause = original.__cause__ if context.sqlalchemy_exception is not None else original
    if not isinstance(cause, Exception):
        return
    found = postgresql_pool.fault(cause)
    if found is not cause:
        raise found from original


def _opened(engine: AsyncEngine | None) -> AsyncEngine:
    if engine is None:
        raise DatabaseOutage("the database is not open")
    return engine


def _not_yours(what: str) -> Bug:
    return Bug(
        f"{what}() is not for a handler: the transaction is atoll's",
        hint="returning commits, raising rolls back; begin_nested() gives a savepoint, `Database` transactions of your own",
    )
