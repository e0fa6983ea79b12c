"""What one service's own database promises. Read this file first.

`sqlite`, `postgresql`, `mongodb` and `sqlalchemy` keep it; `tests/contract/test_database.py` checks all of them.
A `Database` opens transactions; its `journal` holds delivery's own tables (outbox, cursors, inbox, parked events),
in the same database and, where it says so, in the same transaction as the service's effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

__all__ = [
    "Backlog",
    "Database",
    "Journal",
    "Kept",
    "KeyInUse",
    "Lease",
    "LeaseLost",
    "OutboxRow",
    "Parked",
    "Transaction",
]

Kind = Literal["sqlite", "postgresql", "mongodb"]


class OutboxRow(msgspec.Struct, frozen=True):
    """One event that is part of a transaction and not yet published.

    `position` is given by the database and rises in commit order per key. `key` is what order is kept for.
    """

    id: str
    subject: str
    key: str
    headers: bytes
    body: bytes
    position: int = 0


class Backlog(msgspec.Struct, frozen=True):
    """What waits in the outbox."""

    count: int
    oldest_age_s: float


class Lease(msgspec.Struct, frozen=True):
    """The right to work on one source: its cursor row. Valid while nobody raised `epoch`.

    `source` is the stream consumed, or "outbox" for the relay. `identity` and `sequence` are the cursor. `released` tells
    how the former holder left: False means it may have died with events in hand.
    """

    source: str
    owner: str
    epoch: int
    identity: str
    sequence: int
    released: bool


class LeaseLost(Exception):
    """Another holder took the lease; everything in this transaction must be rolled back."""


class Kept(msgspec.Struct, frozen=True):
    """What a request was answered that may be sent again. `fingerprint` is of what was asked, `headers` are JSON pairs."""

    fingerprint: bytes
    status: int
    headers: bytes
    body: bytes


class KeyInUse(Exception):
    """Another transaction works on the same request; everything in this one must be rolled back."""


class Parked(msgspec.Struct, frozen=True):
    """An event that failed or queues behind one of its key. `state`: "waiting" until `due_at` (epoch s), or "dead".

    `attempts` counts finished and fatal tries; an Outage never counts. `error` is one line, `trace` the whole traceback.
    """

    id: str
    source: str
    type: str
    key: str
    sequence: int
    headers: bytes
    body: bytes
    attempts: int
    due_at: float
    state: Literal["waiting", "dead"] = "waiting"
    error: str = ""
    trace: str = ""


class Transaction(Protocol):
    """One transaction. It starts at its first statement; leaving the block commits, an exception rolls back."""

    async def publish(self, event: Any) -> None:
        """The event becomes part of this transaction: published after the commit, or never. Order is call order.

        Raises Invalid-like Bug at once when it is not an event this service declared, or is too large for the bus.
        """
        ...


class Journal(Protocol):
    """Delivery's own tables. Methods that take `tx` are part of that transaction; the others are short ones of their own.

    All raise DatabaseOutage when the database can't be reached. Times are decided by the database's clock where it has one.
    """

    # outbox
    async def outbox(self, limit: int) -> list[OutboxRow]:
        """The oldest rows, in order."""
        ...

    async def remove_outbox(self, rows: Sequence[OutboxRow]) -> None: ...

    async def backlog(self) -> Backlog: ...

    # leases and cursors
    async def take_lease(self, source: str, owner: str, duration_s: float) -> Lease | None:
        """The lease, its epoch raised, if it is free, expired, or was this `owner`'s; else None. Makes the row at first use."""
        ...

    async def renew_leases(self, leases: Iterable[Lease], duration_s: float) -> set[str]:
        """Prolongs them; gives the sources whose lease is still held (same owner and epoch)."""
        ...

    async def release_lease(self, lease: Lease) -> None:
        """Frees it and marks the row as released, if it is still held."""
        ...

    async def restart_cursor(self, lease: Lease, identity: str, sequence: int) -> Lease:
        """Sets the cursor for another stream identity. Raises LeaseLost."""
        ...

    # inbox
    async def seen(self, tx: Any, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that were handled before."""
        ...

    async def advance(self, tx: Any, lease: Lease, sequence: int, ids: Sequence[str]) -> Lease:
        """Remembers `ids` as handled and moves the cursor. Raises LeaseLost when epoch or sequence is not the lease's."""
        ...

    async def handled_at(self, id: str) -> float | None:
        """When the event was handled (epoch s); None when it was not, or the inbox has forgotten it."""
        ...

    async def position(self, source: str) -> int | None:
        """Up to where the events of `source` were looked at; None when nobody has begun."""
        ...

    async def forget_inbox(self, older_than_s: float) -> int: ...

    # the attempt of an event that may have killed its process
    async def begin_attempt(self, source: str, id: str) -> int:
        """Commits that an attempt begins and gives its number, from 1. Cleared by `advance` or `park` of this id."""
        ...

    # answers to requests that may be sent again
    async def claim(self, tx: Any, id: str) -> Kept | None:
        """Begins `tx` as the one that answers `id`; gives what another one has answered before, if one has.

        Of all that claim an id at most one commits an answer. The others are told KeyInUse: here, without waiting, where
        the database can tell; by `keep` at the latest.
        """
        ...

    async def keep(self, tx: Any, id: str, answer: Kept) -> None:
        """The answer becomes part of this transaction. Raises KeyInUse."""
        ...

    async def forget_answers(self, older_than_s: float) -> int: ...

    # parked events and dead letters
    async def park(self, tx: Any, event: Parked) -> None:
        """Inserts it or replaces the one with its id."""
        ...

    async def unpark(self, tx: Any, id: str) -> bool:
        """Deletes it; False when it was gone."""
        ...

    async def parked_keys(self, source: str) -> set[str]:
        """Keys with at least one parked event: later events of them must queue."""
        ...

    async def due(self, source: str, limit: int) -> list[Parked]:
        """The first parked event of every key, if it is waiting and due, oldest first."""
        ...

    async def parked(self, state: str | None = None, limit: int = 1000) -> list[Parked]: ...

    async def parked_event(self, id: str) -> Parked | None: ...

    async def next_due_in(self, source: str) -> float | None:
        """Seconds until the next head of a key is due (0 if it is), None when nothing waits."""
        ...


class Database(Protocol):
    """One service's own database."""

    @property
    def kind(self) -> Kind: ...

    @property
    def journal(self) -> Journal: ...

    async def open(self) -> None:
        """Makes it usable: connects and checks. Raises DatabaseOutage."""
        ...

    async def migrate(self, folder: Path | None) -> list[str]:
        """Applies atoll's own and the service's pending migrations under a lock; gives the service's that were.

        Raises SystemMistake that names the file: two with one number, a gap, an applied one edited or missing, one that
        fails. Applied ones newer than the folder's last are left alone: an older replica runs beside a newer one.
        """
        ...

    async def pending(self, folder: Path | None) -> list[str]:
        """What `migrate` would apply, atoll's own too, by file name; changes nothing and takes no lock.

        Raises SystemMistake as `migrate` does, DatabaseOutage.
        """
        ...

    async def close(self) -> None: ...

    async def ping(self, timeout_s: float = 1.0) -> None:
        """Raises DatabaseOutage when it can't answer."""
        ...

    def transaction(self, *, patient: bool = False) -> AbstractAsyncContextManager[Any]:
        """A Transaction of this kind. On leaving: outbox rows are written last, then commit, then `on_published`.

        `patient` matters to SQLite alone: its one writer may then be held for up to 1 s while other things are awaited
        (a consumer's batch, a handler in a thread). Without it, awaiting anything but the transaction is a Bug.
        """
        ...

    def reader(self) -> AbstractAsyncContextManager[Any]:
        """The same shape, for reading only: writes are refused by the database. What GET handlers are given."""
        ...

    def on_published(self, callback: Callable[[], None]) -> None:
        """Called on the event loop after a commit that put rows into the outbox."""
        ...


class Encode(Protocol):
    """Turns an event into its outbox row. Given to a database by the service runtime. Raises Bug."""

    def __call__(self, event: Any, /) -> OutboxRow: ...
