"""Delivery's tables on PostgreSQL, schema `atoll`. The clock is the server's.

Methods that take `tx` need nothing of it but `fetch(sql, *args)`, so that other ways to PostgreSQL can use this journal too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from atoll.database.ports import Backlog, Kept, KeyInUse, Lease, LeaseLost, OutboxRow, Parked
from atoll.database.rows import plan

__all__ = ["PostgresJournal"]

Rows = tuple[tuple[str, ...], Sequence[Sequence[Any]]]

_NOW = "extract(epoch FROM clock_timestamp())::double precision"
_TAKE = """INSERT INTO atoll.cursor AS c (source, owner, epoch, expires_at)
VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 second')
ON CONFLICT (source) DO UPDATE SET owner = excluded.owner, epoch = c.epoch + 1, expires_at = excluded.expires_at,
    former_released = c.released, released = false
WHERE c.owner = excluded.owner OR c.released OR c.expires_at < clock_timestamp()
RETURNING epoch, identity, sequence, former_released"""
_RENEW = """UPDATE atoll.cursor AS c SET expires_at = clock_timestamp() + $4 * interval '1 second'
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS l (source, owner, epoch)
WHERE c.source = l.source AND c.owner = l.owner AND c.epoch = l.epoch
RETURNING c.source"""
_RELEASE = """UPDATE atoll.cursor SET expires_at = '-infinity', released = true
WHERE source = $1 AND owner = $2 AND epoch = $3"""
_RESTART = """UPDATE atoll.cursor SET identity = $4, sequence = $5
WHERE source = $1 AND owner = $2 AND epoch = $3 RETURNING 1"""
_ADVANCE = """WITH moved AS (
    UPDATE atoll.cursor SET sequence = $5 WHERE source = $1 AND owner = $2 AND epoch = $3 AND sequence = $4 RETURNING 1
), noted AS (
    INSERT INTO atoll.inbox (id) SELECT unnest($6::text[]) ON CONFLICT DO NOTHING
), cleared AS (
    DELETE FROM atoll.attempt WHERE id = ANY ($6::text[])
)
SELECT 1 FROM moved"""
_FORGET = """WITH gone AS (
    DELETE FROM atoll.{table} WHERE id IN (
        SELECT id FROM atoll.{table} WHERE {column} < clock_timestamp() - $1 * interval '1 second' LIMIT $2
    ) RETURNING 1
)
SELECT count(*) FROM gone"""
# Inserting alone would wait for whoever inserts the same id; the lock says at once that there is somebody. It goes with its
# transaction, also when the client dies.
_CLAIM = """WITH claim AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtextextended('atoll.answer ' || $1, 0)) AS free)
INSERT INTO atoll.answer (id) SELECT $1 FROM claim WHERE free ON CONFLICT (id) DO NOTHING RETURNING id"""
_KEPT = "SELECT fingerprint, status, headers, body FROM atoll.answer WHERE id = $1"
_KEEP = "UPDATE atoll.answer SET fingerprint = $2, status = $3, headers = $4, body = $5 WHERE id = $1 RETURNING 1"
_ATTEMPT = """INSERT INTO atoll.attempt AS a (id, source, number) VALUES ($1, $2, 1)
ON CONFLICT (id) DO UPDATE SET number = a.number + 1 RETURNING number"""
_PARKED = tuple(Parked.__struct_fields__)
_PARK = f"""WITH cleared AS (DELETE FROM atoll.attempt WHERE id = $1)
INSERT INTO atoll.parked ({", ".join(_PARKED)})
VALUES ({", ".join(f"${index}" for index in range(1, len(_PARKED) + 1))})
ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _PARKED[1:])}"""
_HEADS = "SELECT DISTINCT ON (key) * FROM atoll.parked WHERE source = $1 ORDER BY key, sequence"
_CHUNK = 5000


class PostgresJournal:
    """`ports.Journal` on PostgreSQL. `run` executes one statement in a transaction of its own."""

    def __init__(self, run: Callable[..., Awaitable[Rows]]) -> None:
        self._run = run

    # outbox

    async def outbox(self, limit: int) -> list[OutboxRow]:
        """The oldest committed rows, in order."""
        sql = "SELECT id, subject, key, headers, body, position FROM atoll.outbox ORDER BY position LIMIT $1"
        _, rows = await self._run(sql, limit)
        return [OutboxRow(*row) for row in rows]

    async def remove_outbox(self, rows: Sequence[OutboxRow]) -> None:
        """Deletes them."""
        await self._run("DELETE FROM atoll.outbox WHERE position = ANY ($1::bigint[])", [row.position for row in rows])

    async def backlog(self) -> Backlog:
        """How many rows wait, and for how long the oldest has."""
        sql = f"SELECT count(*), {_NOW} - extract(epoch FROM min(created_at))::double precision FROM atoll.outbox"
        _, rows = await self._run(sql)
        count, age_s = rows[0]
        return Backlog(count, max(0.0, age_s or 0.0))

    # leases and cursors

    async def take_lease(self, source: str, owner: str, duration_s: float) -> Lease | None:
        """The lease, or None while another holds it."""
        _, rows = await self._run(_TAKE, source, owner, duration_s)
        if not rows:
            return None
        epoch, identity, sequence, released = rows[0]
        return Lease(source, owner, epoch, identity, sequence, released)

    async def renew_leases(self, leases: Iterable[Lease], duration_s: float) -> set[str]:
        """The sources still held."""
        known = sorted(leases, key=lambda lease: lease.source)
        sources, owners = [lease.source for lease in known], [lease.owner for lease in known]
        _, rows = await self._run(_RENEW, sources, owners, [lease.epoch for lease in known], duration_s)
        return {row[0] for row in rows}

    async def release_lease(self, lease: Lease) -> None:
        """Frees it, if it is still held."""
        await self._run(_RELEASE, lease.source, lease.owner, lease.epoch)

    async def restart_cursor(self, lease: Lease, identity: str, sequence: int) -> Lease:
        """Sets the cursor. Raises LeaseLost."""
        _, rows = await self._run(_RESTART, lease.source, lease.owner, lease.epoch, identity, sequence)
        if not rows:
            raise LeaseLost(lease.source)
        return replace(lease, identity=identity, sequence=sequence)

    # inbox

    async def seen(self, tx: Any, ids: Sequence[str]) -> set[str]:
        """Those of `ids` handled before."""
        _, rows = await tx.fetch("SELECT id FROM atoll.inbox WHERE id = ANY ($1::text[])", list(ids))
        return {row[0] for row in rows}

    async def advance(self, tx: Any, lease: Lease, sequence: int, ids: Sequence[str]) -> Lease:
        """Moves the cursor and remembers `ids`, in one round trip. Raises LeaseLost."""
        _, rows = await tx.fetch(_ADVANCE, lease.source, lease.owner, lease.epoch, lease.sequence, sequence, list(ids))
        if not rows:
            raise LeaseLost(lease.source)
        return replace(lease, sequence=sequence)

    async def handled_at(self, id: str) -> float | None:
        """When it was handled (epoch s)."""
        sql = "SELECT extract(epoch FROM handled_at)::double precision FROM atoll.inbox WHERE id = $1"
        _, rows = await self._run(sql, id)
        return rows[0][0] if rows else None

    async def position(self, source: str) -> int | None:
        """The cursor's sequence."""
        _, rows = await self._run("SELECT sequence FROM atoll.cursor WHERE source = $1", source)
        return rows[0][0] if rows else None

    async def forget_inbox(self, older_than_s: float) -> int:
        """The number of ids forgotten; in short transactions."""
        return await self._forget(_FORGET.format(table="inbox", column="handled_at"), older_than_s)

    # the attempt of an event that may have killed its process

    async def begin_attempt(self, source: str, id: str) -> int:
        """Commits that an attempt begins; its number."""
        _, rows = await self._run(_ATTEMPT, id, source)
        number: int = rows[0][0]
        return number

    # answers to requests that may be sent again

    async def claim(self, tx: Any, id: str) -> Kept | None:
        """Takes the id, or gives what was answered before. Raises KeyInUse."""
        _, taken = await tx.fetch(_CLAIM, id)
        if taken:
            return None
        _, rows = await tx.fetch(_KEPT, id)
        if not rows:
            raise KeyInUse(id)
        return Kept(*rows[0])

    async def keep(self, tx: Any, id: str, answer: Kept) -> None:
        """Fills in the row that `claim` wrote. Raises KeyInUse when this transaction has none."""
        _, rows = await tx.fetch(_KEEP, id, answer.fingerprint, answer.status, answer.headers, answer.body)
        if not rows:
            raise KeyInUse(id)

    async def forget_answers(self, older_than_s: float) -> int:
        """The number of answers forgotten; in short transactions."""
        return await self._forget(_FORGET.format(table="answer", column="kept_at"), older_than_s)

    # parked events and dead letters

    async def park(self, tx: Any, event: Parked) -> None:
        """Inserts or replaces it, and clears its attempt."""
        await tx.fetch(_PARK, *(getattr(event, name) for name in _PARKED))

    async def unpark(self, tx: Any, id: str) -> bool:
        """Deletes it; False when it was gone."""
        _, rows = await tx.fetch("DELETE FROM atoll.parked WHERE id = $1 RETURNING 1", id)
        return bool(rows)

    async def parked_keys(self, source: str) -> set[str]:
        """Keys whose later events must queue."""
        _, rows = await self._run("SELECT DISTINCT key FROM atoll.parked WHERE source = $1", source)
        return {row[0] for row in rows}

    async def due(self, source: str, limit: int) -> list[Parked]:
        """The heads of keys that are due, oldest first."""
        sql = f"""SELECT * FROM ({_HEADS}) AS head
            WHERE state = 'waiting' AND due_at <= {_NOW} ORDER BY sequence LIMIT $2"""
        return await self._parked(sql, source, limit)

    async def parked(self, state: str | None = None, limit: int = 1000) -> list[Parked]:
        """All, or those of one state, by source and sequence."""
        sql = "SELECT * FROM atoll.parked WHERE $1::text IS NULL OR state = $1 ORDER BY source, sequence LIMIT $2"
        return await self._parked(sql, state, limit)

    async def parked_event(self, id: str) -> Parked | None:
        """One of them."""
        found = await self._parked("SELECT * FROM atoll.parked WHERE id = $1", id)
        return found[0] if found else None

    async def next_due_in(self, source: str) -> float | None:
        """Seconds until the next head is due; None when nothing waits."""
        _, rows = await self._run(f"SELECT min(due_at) - {_NOW} FROM ({_HEADS}) AS head WHERE state = 'waiting'", source)
        wait_s: float | None = rows[0][0]
        return None if wait_s is None else max(0.0, wait_s)

    async def _forget(self, sql: str, older_than_s: float) -> int:
        total = 0
        while True:
            _, rows = await self._run(sql, older_than_s, _CHUNK)
            count: int = rows[0][0]
            total += count
            if count < _CHUNK:
                return total

    async def _parked(self, sql: str, *args: Any) -> list[Parked]:
        columns, rows = await self._run(sql, *args)
        return plan(Parked, columns).all(rows) if rows else []
