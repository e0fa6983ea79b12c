"""SQLite's one writer: handlers take turns at it and share commits.

A handler takes the writer at its first statement and leaves it at the end of its block. Statements run inline on the event
loop, so a handler that awaits nothing but its transaction never gives up the loop in between: all who are ready in one
round of the loop run one after the other, each in a savepoint, and a *tick* at the end of the round commits them together,
in a thread. That is also the rule's guard: a tick that finds a handler still holding the writer knows, for certain, that
it awaited something else; the handler is rolled back and told so.

A patient holder (a consumer's batch, a handler in a thread) may give up the loop, for HOLD_S at most; it has its own commit.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from types import CoroutineType
from typing import Any, Protocol

from atoll.errors import Bug, DatabaseOutage
from atoll.system.budgets import BUDGETS

__all__ = ["HOLD_S", "Holder", "Writer", "outage"]

HOLD_S = 1.0
_GROUP = 64
_BUSY_PAUSE_S = 0.005
# SQLite's primary result codes that are the world's fault: https://sqlite.org/rescode.html
_OUTAGES = {5: "BUSY", 6: "LOCKED", 7: "NOMEM", 9: "INTERRUPT", 10: "IOERR", 11: "CORRUPT", 13: "FULL", 14: "CANTOPEN"}
_OUTAGES |= {8: "READONLY", 15: "PROTOCOL", 26: "NOTADB"}
_INSERT = "INSERT INTO atoll_outbox (id, subject, key, headers, body, created_at) VALUES (?, ?, ?, ?, ?, ?)"


class Holder(Protocol):
    """Who holds the writer: a transaction."""

    patient: bool
    task: asyncio.Task[Any] | None

    def expel(self, reason: Exception) -> None:
        """It was rolled back; its next statement, or its end, raises `reason`."""
        ...


def outage(error: sqlite3.Error) -> DatabaseOutage | None:
    """The outage behind an error of SQLite, None when the statement itself was wrong."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code not in _OUTAGES:
        return None
    text = f"the statement took longer than {HOLD_S:g} s" if code == 9 else str(error)
    return DatabaseOutage(f"SQLite: {text} (SQLITE_{_OUTAGES[code]})")


class Writer:
    """Turns, groups and commits on one connection. Everything but COMMIT runs on the event loop."""

    def __init__(self, connection: sqlite3.Connection, committed: Callable[[], None]) -> None:
        self.cursor = connection.cursor()
        self._connection = connection
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._deadline = 0.0
        self._holder: Holder | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: deque[tuple[bool, asyncio.Future[None]]] = deque()
        self._invited = 0
        self._group: list[asyncio.Future[None]] = []
        self._publishes = False
        self._open = self._busy = self._ticking = self._closed = False
        self._changes = 0
        connection.set_progress_handler(lambda: time.monotonic() > self._deadline, 20_000)
        self._jobs: SimpleQueue[bool] = SimpleQueue()
        self._thread = threading.Thread(target=self._commit_in_thread, name="atoll-sqlite-commit", daemon=True)
        self._thread.start()

    # turns

    async def take(self, holder: Holder) -> None:
        """Returns when `holder` has the writer, in a savepoint of its own. Raises DatabaseOutage."""
        if self._busy or self._holder is not None or self._waiters or self._invited or (holder.patient and self._group):
            await self._queue(holder.patient)
        if not self._open:
            await self._begin()
        self._deadline = time.monotonic() + HOLD_S
        self._savepoint()
        self._holder = holder
        if holder.patient:
            self._timer = self._loop.call_later(HOLD_S, self._expire, holder)
        elif not self._ticking:
            self._ticking = True
            self._loop.call_soon(self._tick)

    def _savepoint(self) -> None:
        try:
            self.cursor.execute("SAVEPOINT turn")
        except sqlite3.Error as error:
            self._tick_soon()  # whoever queues behind this turn gets theirs
            raise outage(error) or error from error

    def leave(self, rows: Sequence[tuple[str, str, str, bytes, bytes]]) -> asyncio.Future[None]:
        """Ends the holder's turn with its outbox rows; the future is done when its group is committed."""
        if rows:
            now = time.time()
            for row in rows:
                self.cursor.execute(_INSERT, (*row, now))
            self._publishes = True
        self.cursor.execute("RELEASE turn")
        done = self._loop.create_future()
        self._group.append(done)
        self._vacate()
        return done

    def undo(self) -> None:
        """Ends the holder's turn and everything it did."""
        try:
            if self._connection.in_transaction:
                self.cursor.execute("ROLLBACK TO turn")
                self.cursor.execute("RELEASE turn")
        finally:
            self._vacate()

    def lost(self, error: Exception) -> bool:
        """After a failed statement: did SQLite roll back everything, the whole group with it?"""
        if not self._open or self._connection.in_transaction:
            return False
        self._open = False
        self._finish(DatabaseOutage(f"SQLite rolled the transaction back: {error}"))
        self._vacate()
        return True

    async def close(self) -> None:
        """Waits for the group in hand; whoever still queues gets a DatabaseOutage."""
        self._closed = True
        while self._group or self._busy or self._holder is not None:
            done = self._loop.create_future()
            self._group.append(done)
            self._tick_soon()
            with suppress(DatabaseOutage):
                await done
        self._jobs.put(False)
        self._thread.join()
        for _, turn in self._waiters:
            if not turn.done():
                turn.set_exception(DatabaseOutage("the database is closed"))

    async def _queue(self, patient: bool) -> None:
        while True:
            turn: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append((patient, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._invited -= 1
                    self._tick_soon()
                raise
            self._invited -= 1
            if not self._busy and self._holder is None and not (patient and self._group):
                return

    def _wake(self) -> None:
        """Invites the next: a patient one alone, others as many as fit into one commit."""
        while self._waiters and self._invited < _GROUP:
            patient, turn = self._waiters[0]
            if patient and self._invited and not turn.done():
                return
            self._waiters.popleft()
            if turn.done():
                continue
            self._invited += 1
            turn.set_result(None)
            if patient:
                return

    def _vacate(self) -> None:
        self._holder = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tick_soon()

    # the tick: nobody who plays by the rules holds the writer when it runs

    def _tick_soon(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._ticking = False
        if self._busy:
            return
        if self._holder is not None:
            if self._holder.patient:
                return
            self._expel(self._holder, _yielded(self._holder.task))
        if self._group:
            self._commit()
        else:
            self._abandon()

    def _expire(self, holder: Holder) -> None:
        if self._holder is holder:
            self._expel(holder, _too_long(holder.task))

    def _expel(self, holder: Holder, reason: Exception) -> None:
        holder.expel(reason)
        self.undo()

    def _abandon(self) -> None:
        """Everybody rolled back: end the empty transaction, so that the file's lock is free."""
        if self._open:
            self._open = False
            self.cursor.execute("ROLLBACK")
        self._wake()

    # begin and commit

    async def _begin(self) -> None:
        """Another process (a restart overlaps) may have the file's lock: wait for it without blocking the loop."""
        self._busy = True
        end = self._loop.time() + BUDGETS.statement_s
        try:
            while not self._try_begin():
                if self._loop.time() > end:
                    raise DatabaseOutage(f"another process kept SQLite's lock for {BUDGETS.statement_s:g} s")
                await asyncio.sleep(_BUSY_PAUSE_S)
        except BaseException:
            self._busy = False
            self._tick_soon()
            raise
        self._busy = False
        self._open = True
        self._changes = self._connection.total_changes

    def _try_begin(self) -> bool:
        if self._closed:
            raise DatabaseOutage("the database is closed")
        try:
            self.cursor.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (5, 6):
                return False
            raise outage(error) or error from error
        return True

    def _commit(self) -> None:
        if self._open and self._connection.total_changes == self._changes:
            self._committed_with(self._try_commit())  # nothing to sync, no need for the thread
            return
        self._busy = True
        self._jobs.put(True)

    def _commit_in_thread(self) -> None:
        while self._jobs.get():
            error = self._try_commit()
            with suppress(RuntimeError):  # the loop was closed first
                self._loop.call_soon_threadsafe(self._committed_with, error)

    def _try_commit(self) -> Exception | None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            return outage(error) or error
        return None

    def _committed_with(self, error: Exception | None) -> None:
        self._busy = self._open = False
        self._finish(error)
        self._wake()

    def _finish(self, error: Exception | None) -> None:
        """Tells the group how it went."""
        group, self._group = self._group, []
        publishes, self._publishes = self._publishes, False
        for done in group:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
        if publishes and error is None:
            self._committed()


def _yielded(task: asyncio.Task[Any] | None) -> Bug:
    return Bug(
        f"a handler awaited something else while it held SQLite's writer{_place(task)}; it was rolled back",
        hint="await nothing but the transaction from its first statement on: call out before it, or `async with "
        "database.reader()` to look something up first",
    )


def _too_long(task: asyncio.Task[Any] | None) -> Bug:
    return Bug(
        f"SQLite's writer was held for more than {HOLD_S:g} s{_place(task)}; the transaction was rolled back",
        hint="one handler at a time writes: keep slow work and calls to others outside the transaction",
    )


def _place(task: asyncio.Task[Any] | None) -> str:
    """Where `task` waits: the innermost line of the service's own code."""
    lines = [
        line for line in _lines(task) if "/site-packages/" not in line and "/asyncio/" not in line and "/atoll/" not in line
    ]
    return f", at {lines[-1]}" if lines else ""


def _lines(task: asyncio.Task[Any] | None) -> Iterator[str]:
    coroutine = task.get_coro() if task is not None and not task.done() else None
    while isinstance(coroutine, CoroutineType):
        if coroutine.cr_frame is not None:
            yield f"{coroutine.cr_frame.f_code.co_filename}:{coroutine.cr_frame.f_lineno}"
        coroutine = coroutine.cr_await
