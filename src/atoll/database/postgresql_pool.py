"""Connections to PostgreSQL: last in, first out, without a reset query, replaced by themselves when the server comes back.

The only module that imports asyncpg at its top; it is imported when a database is opened.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import asyncpg
import msgspec

from atoll.errors import Bug, DatabaseOutage
from atoll.system.budgets import BUDGETS

__all__ = ["LIMITS", "Pool", "connect", "fault"]

Connection = asyncpg.Connection

# What the server gives up by itself, on connections that serve handlers.
LIMITS = {
    "statement_timeout": str(int(BUDGETS.statement_s * 1000)),
    "idle_in_transaction_session_timeout": str(int(BUDGETS.idle_in_transaction_s * 1000)),
}
_CONNECT_S = 3.0
_TRIM_S = 30.0
# Classes and codes that are the world's fault: https://www.postgresql.org/docs/current/errcodes-appendix.html
# connection, rollback (deadlock, serialization), resources, operator intervention, system, lock not available, idle too long
_OUTAGE_CLASSES = ("08", "40", "53", "57", "58", "XX")
_OUTAGE_CODES = ("55P03", "25P03", "25P04")


def fault(error: Exception) -> Exception:
    """What to raise for an error of the driver; the error itself when the statement was wrong."""
    if isinstance(error, asyncpg.PostgresError):
        return _server_fault(error)
    if isinstance(error, TimeoutError):
        return DatabaseOutage("PostgreSQL did not answer in time")
    if isinstance(error, OSError):
        return DatabaseOutage(f"PostgreSQL can't be reached: {error}")
    if isinstance(error, asyncpg.InternalClientError):
        return DatabaseOutage(f"PostgreSQL: {error}")
    if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, asyncpg.DataError):
        return _interface_fault(error)
    return error


async def connect(url: str, settings: Mapping[str, str], command_timeout_s: float | None = None) -> Connection[Any]:
    """One connection that knows JSON. Raises DatabaseOutage."""
    server_settings = {"timezone": "UTC", **settings}
    try:
        connection: Connection[Any] = await asyncpg.connect(
            url,
            timeout=_CONNECT_S,
            command_timeout=command_timeout_s,
            server_settings=server_settings,
            max_cached_statement_lifetime=0,
        )
        await _learn_json(connection)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        found = fault(error)
        raise found if isinstance(found, DatabaseOutage) else DatabaseOutage(f"PostgreSQL refused: {error}") from error
    return connection


class Pool:
    """At most `size` connections, opened when needed; the ones unused for half a minute are closed, down to one."""

    def __init__(self, url: str, size: int, settings: Mapping[str, str]) -> None:
        self._url = url
        self._limit = size
        self._settings = {**LIMITS, **settings}
        self._idle: list[Connection[Any]] = []
        self._waiters: deque[asyncio.Future[Connection[Any] | None]] = deque()
        self._size = 0
        self._low = 0
        self._cleaning: set[asyncio.Task[None]] = set()
        self._closed = False
        self._timer = asyncio.get_running_loop().call_later(_TRIM_S, self._trim)

    async def acquire(self) -> tuple[Connection[Any], bool]:
        """A connection, and whether it is new: an old one may have died unnoticed. Raises DatabaseOutage."""
        while True:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    self._low = min(self._low, len(self._idle))
                    return connection, False
                self._size -= 1
            if self._closed:
                raise DatabaseOutage("the database is closed")
            if self._size < self._limit:
                return await self._open(), True
            if handed := await self._wait():
                return handed, False

    def release(self, connection: Connection[Any]) -> None:
        """Gives it back, outside any transaction."""
        if self._closed or connection.is_closed():
            self.discard(connection)
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def give_back(self, connection: Connection[Any], error: Exception) -> None:
        """After a failed statement: a server that did not answer in time is not asked again on this connection."""
        if isinstance(error, TimeoutError):
            self.discard(connection)
        else:
            self.release(connection)

    def discard(self, connection: Connection[Any]) -> None:
        """Drops it: its state is unknown."""
        connection.terminate()
        self._size -= 1
        self._wake()

    def clean_up(self, connection: Connection[Any]) -> None:
        """Rolls back in the background, for a caller who was cancelled and can't wait."""
        task = asyncio.get_running_loop().create_task(self._roll_back(connection))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def close(self) -> None:
        """Closes what is idle; what is in use is closed when it is released."""
        self._closed = True
        self._timer.cancel()
        if self._cleaning:
            await asyncio.wait(self._cleaning)
        idle, self._idle = self._idle, []
        for connection in idle:
            self._size -= 1
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=1.0)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _open(self) -> Connection[Any]:
        self._size += 1
        try:
            return await connect(self._url, self._settings, BUDGETS.statement_s + 1.0)
        except BaseException:
            self._size -= 1
            self._wake()
            raise

    async def _wait(self) -> Connection[Any] | None:
        """What somebody released, or None when there is room for a new one."""
        waiter: asyncio.Future[Connection[Any] | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(BUDGETS.statement_s):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self._pass_on(waiter.result())
            if isinstance(error, TimeoutError):
                raise DatabaseOutage(f"all {self._limit} connections were busy for {BUDGETS.statement_s:g} s") from None
            raise

    def _pass_on(self, handed: Connection[Any] | None) -> None:
        """What came for a caller just as it left: a connection, or word that there is room for one."""
        if handed is None:
            self._wake()
        else:
            self.release(handed)

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _roll_back(self, connection: Connection[Any]) -> None:
        try:
            async with asyncio.timeout(2.0):
                await connection.execute("ROLLBACK")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            self.discard(connection)
        else:
            self.release(connection)

    def _trim(self) -> None:
        """Closes as many as were never needed since the last time; the bottom of the stack are the ones."""
        self._timer = asyncio.get_running_loop().call_later(_TRIM_S, self._trim)
        spare, self._idle = self._idle[: self._low], self._idle[self._low :]
        if spare and not self._idle:
            self._idle.append(spare.pop())
        for connection in spare:
            self.discard(connection)
        self._low = len(self._idle)


async def _learn_json(connection: Connection[Any]) -> None:
    """json and jsonb as Python values, both ways."""
    encode, decode = msgspec.json.encode, msgspec.json.decode
    await connection.set_type_codec("json", schema="pg_catalog", encoder=encode, decoder=decode, format="binary")
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: b"\x01" + encode(value),  # the version byte of jsonb's binary form
        decoder=lambda data: decode(data[1:]),
        format="binary",
    )


def _server_fault(error: asyncpg.PostgresError) -> Exception:
    code = error.sqlstate or ""
    if code.startswith(_OUTAGE_CLASSES) or code in _OUTAGE_CODES:
        return DatabaseOutage(f"PostgreSQL: {error} (SQLSTATE {code})")
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return DatabaseOutage(f"the schema changed under a running service: {error}")
    if code == "25006":
        return Bug("a reader can't write", hint="GET handlers are given a reader; change things in post, put, patch or delete")
    if code == "25P02":
        return Bug(
            "an earlier statement of this transaction failed and the error was caught",
            hint="PostgreSQL can't go on after it: let it raise, or say ON CONFLICT so that it does not fail",
        )
    return error


def _interface_fault(error: asyncpg.InterfaceError) -> Exception:
    text = str(error)
    if "another operation is in progress" in text:
        return Bug(
            "two statements at once in one transaction", hint="await one after the other; gather() needs a transaction each"
        )
    if "closed" in text or "released" in text:
        return DatabaseOutage(f"PostgreSQL: {text}")
    return error
