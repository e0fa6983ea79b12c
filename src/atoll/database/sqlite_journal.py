"""Delivery's tables on SQLite, prefix `atoll_`. The clock is this process's: SQLite has none of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from atoll.database.ports import Backlog, Kept, KeyInUse, Lease, LeaseLost, OutboxRow, Parked

if TYPE_CHECKING:
    from atoll.database.sqlite import Database

__all__ = ["SqliteJournal"]

_CHUNK = 2000
_TAKE = """INSERT INTO atoll_cursor AS c (source, owner, epoch, expires_at) VALUES ($1, $2, 1, $3 + $4)
ON CONFLICT (source) DO UPDATE SET owner = $2, epoch = c.epoch + 1, expires_at = $3 + $4,
    former_released = c.released, released = 0
WHERE c.owner = $2 OR c.released OR c.expires_at < $3
RETURNING epoch, identity, sequence, former_released"""
_HEADS = """SELECT p.* FROM atoll_parked AS p
JOIN (SELECT key, min(sequence) AS sequence FROM atoll_parked WHERE source = $1 GROUP BY key) AS head
    ON p.key = head.key AND p.sequence = head.sequence
WHERE p.source = $1 AND p.state = 'waiting'"""


class SqliteJournal:
    """`ports.Journal` on SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # outbox

    async def outbox(self, limit: int) -> list[OutboxRow]:
        """The oldest committed rows, in order."""
        sql = "SELECT id, subject, key, headers, body, position FROM atoll_outbox ORDER BY position LIMIT $1"
        async with self._database.reader() as reader:
            _, rows = await reader.fetch(sql, limit)
        return [OutboxRow(*row) for row in rows]

    async def remove_outbox(self, rows: Sequence[OutboxRow]) -> None:
        """Deletes them."""
        sql = "DELETE FROM atoll_outbox WHERE position IN (SELECT value FROM json_each($1))"
        await self._write(sql, _json([row.position for row in rows]))

    async def backlog(self) -> Backlog:
        """How many rows wait, and for how long the oldest has."""
        async with self._database.reader() as reader:
            _, rows = await reader.fetch("SELECT count(*), coalesce(min(created_at), $1) FROM atoll_outbox", time.time())
        count, oldest = rows[0]
        return Backlog(count, max(0.0, time.time() - oldest) if count else 0.0)

    # leases and cursors

    async def take_lease(self, source: str, owner: str, duration_s: float) -> Lease | None:
        """The lease, or None while another holds it."""
        async with self._database.transaction() as tx:
            _, rows = await tx.fetch(_TAKE, source, owner, time.time(), duration_s)
        if not rows:
            return None
        epoch, identity, sequence, released = rows[0]
        return Lease(source, owner, epoch, identity, sequence, bool(released))

    async def renew_leases(self, leases: Iterable[Lease], duration_s: float) -> set[str]:
        """The sources still held."""
        sql = "UPDATE atoll_cursor SET expires_at = $1 WHERE source = $2 AND owner = $3 AND epoch = $4"
        held = set()
        async with self._database.transaction() as tx:
            for lease in leases:
                if await tx.execute(sql, time.time() + duration_s, lease.source, lease.owner, lease.epoch):
                    held.add(lease.source)
        return held

    async def release_lease(self, lease: Lease) -> None:
        """Frees it, if it is still held."""
        sql = "UPDATE atoll_cursor SET expires_at = 0, released = 1 WHERE source = $1 AND owner = $2 AND epoch = $3"
        await self._write(sql, lease.source, lease.owner, lease.epoch)

    async def restart_cursor(self, lease: Lease, identity: str, sequence: int) -> Lease:
        """Sets the cursor. Raises LeaseLost."""
        sql = "UPDATE atoll_cursor SET identity = $1, sequence = $2 WHERE source = $3 AND owner = $4 AND epoch = $5"
        if not await self._write(sql, identity, sequence, lease.source, lease.owner, lease.epoch):
            raise LeaseLost(lease.source)
        return replace(lease, identity=identity, sequence=sequence)

    # inbox

    async def seen(self, tx: Any, ids: Sequence[str]) -> set[str]:
        """Those of `ids` handled before."""
        _, rows = await tx.fetch("SELECT id FROM atoll_inbox WHERE id IN (SELECT value FROM json_each($1))", _json(ids))
        return {row[0] for row in rows}

    async def advance(self, tx: Any, lease: Lease, sequence: int, ids: Sequence[str]) -> Lease:
        """Moves the cursor and remembers `ids`. Raises LeaseLost."""
        sql = """UPDATE atoll_cursor SET sequence = $1
            WHERE source = $2 AND owner = $3 AND epoch = $4 AND sequence = $5"""
        if not await tx.execute(sql, sequence, lease.source, lease.owner, lease.epoch, lease.sequence):
            raise LeaseLost(lease.source)
        if ids:
            texts = _json(ids)
            await tx.execute(
                "INSERT OR IGNORE INTO atoll_inbox (id, handled_at) SELECT value, $2 FROM json_each($1)", texts, time.time()
            )
            await tx.execute("DELETE FROM atoll_attempt WHERE id IN (SELECT value FROM json_each($1))", texts)
        return replace(lease, sequence=sequence)

    async def handled_at(self, id: str) -> float | None:
        """When it was handled (epoch s)."""
        async with self._database.reader() as reader:
            found: float | None = await reader.scalar("SELECT max(handled_at) FROM atoll_inbox WHERE id = $1", id)
        return found

    async def position(self, source: str) -> int | None:
        """The cursor's sequence."""
        async with self._database.reader() as reader:
            found: int | None = await reader.scalar("SELECT max(sequence) FROM atoll_cursor WHERE source = $1", source)
        return found

    async def forget_inbox(self, older_than_s: float) -> int:
        """The number of ids forgotten; in short transactions."""
        return await self._forget("atoll_inbox", "handled_at", older_than_s)

    # the attempt of an event that may have killed its process

    async def begin_attempt(self, source: str, id: str) -> int:
        """Commits that an attempt begins; its number."""
        sql = """INSERT INTO atoll_attempt AS a (id, source, number) VALUES ($1, $2, 1)
            ON CONFLICT (id) DO UPDATE SET number = a.number + 1 RETURNING number"""
        async with self._database.transaction() as tx:
            number: int = await tx.scalar(sql, id, source)
        return number

    # answers to requests that may be sent again

    async def claim(self, tx: Any, id: str) -> Kept | None:
        """What was answered before. Takes nothing: the writer is for the handler to take, and there is one process."""
        async with self._database.reader() as reader:
            return await reader.one_or_none(
                Kept, "SELECT fingerprint, status, headers, body FROM atoll_answer WHERE id = $1", id
            )

    async def keep(self, tx: Any, id: str, answer: Kept) -> None:
        """Stores it. Raises KeyInUse."""
        sql = """INSERT INTO atoll_answer (id, kept_at, fingerprint, status, headers, body) VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (id) DO NOTHING"""
        if not await tx.execute(sql, id, time.time(), answer.fingerprint, answer.status, answer.headers, answer.body):
            raise KeyInUse(id)

    async def forget_answers(self, older_than_s: float) -> int:
        """The number of answers forgotten; in short transactions."""
        return await self._forget("atoll_answer", "kept_at", older_than_s)

    # parked events and dead letters

    async def park(self, tx: Any, event: Parked) -> None:
        """Inserts or replaces it, and clears its attempt."""
        fields = _values(event)
        places = ", ".join(f"${index}" for index in range(1, len(fields) + 1))
        await tx.execute(f"INSERT OR REPLACE INTO atoll_parked ({_COLUMNS}) VALUES ({places})", *fields)
        await tx.execute("DELETE FROM atoll_attempt WHERE id = $1", event.id)

    async def unpark(self, tx: Any, id: str) -> bool:
        """Deletes it; False when it was gone."""
        gone: int = await tx.execute("DELETE FROM atoll_parked WHERE id = $1", id)
        return gone > 0

    async def parked_keys(self, source: str) -> set[str]:
        """Keys whose later events must queue."""
        async with self._database.reader() as reader:
            _, rows = await reader.fetch("SELECT DISTINCT key FROM atoll_parked WHERE source = $1", source)
        return {row[0] for row in rows}

    async def due(self, source: str, limit: int) -> list[Parked]:
        """The heads of keys that are due, oldest first."""
        return await self._parked(f"{_HEADS} AND p.due_at <= $2 ORDER BY p.sequence LIMIT $3", source, time.time(), limit)

    async def parked(self, state: str | None = None, limit: int = 1000) -> list[Parked]:
        """All, or those of one state, by source and sequence."""
        sql = "SELECT * FROM atoll_parked WHERE $1 IS NULL OR state = $1 ORDER BY source, sequence LIMIT $2"
        return await self._parked(sql, state, limit)

    async def parked_event(self, id: str) -> Parked | None:
        """One of them."""
        found = await self._parked("SELECT * FROM atoll_parked WHERE id = $1", id)
        return found[0] if found else None

    async def next_due_in(self, source: str) -> float | None:
        """Seconds until the next head is due; None when nothing waits."""
        async with self._database.reader() as reader:
            due_at = await reader.scalar(f"SELECT min(due_at) FROM ({_HEADS})", source)
        return None if due_at is None else max(0.0, due_at - time.time())

    async def _parked(self, sql: str, *args: Any) -> list[Parked]:
        async with self._database.reader() as reader:
            return await reader.all(Parked, sql, *args)

    async def _forget(self, table: str, column: str, older_than_s: float) -> int:
        sql = f"DELETE FROM {table} WHERE {column} < $1 AND rowid <= (SELECT min(rowid) FROM {table}) + $2"
        total = 0
        while count := await self._write(sql, time.time() - older_than_s, _CHUNK):
            total += count
        return total

    async def _write(self, sql: str, *args: Any) -> int:
        async with self._database.transaction() as tx:
            return await tx.execute(sql, *args)


_COLUMNS = ", ".join(Parked.__struct_fields__)


def _values(event: Parked) -> list[Any]:
    return [getattr(event, name) for name in Parked.__struct_fields__]


def _json(values: Sequence[Any]) -> str:
    return msgspec.json.encode(values).decode()
