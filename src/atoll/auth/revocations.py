"""Ending sessions for everybody: the list of those whose tokens are refused before they expire, as it is stored and published.

A row and its shard's message are one transaction, so nothing is ended here and good elsewhere for longer than the bus is down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from atoll.auth.publication import acknowledged, until_acknowledged
from atoll.auth.sql import Transaction
from atoll.database.ports import Database
from atoll.errors import AtollError, Refused
from atoll.service.events import Event
from atoll.tokens.revocations import shard_of

__all__ = ["REVOKED_SUBJECT", "RevocationList", "SessionsRevoked", "TooManyRevocations", "revoke"]

REVOKED_SUBJECT = "keys.revoked"
_MARGIN_S = 5  # the gateway takes a token for two seconds more, and clocks differ
_REPEAT_EVERY_S = 60.0
_MOST_IN_A_SHARD = 1_024  # 64 of them take Envoy three seconds to read; a message could hold sixteen times as many
_log = logging.getLogger("atoll.auth")


class SessionsRevoked(Event, name="sessions_revoked", key="shard", subject=f"{REVOKED_SUBJECT}.{{key}}"):
    """One shard of the list, as `tokens.revocations.RevokedShard` reads it."""

    shard: int
    version: int
    sessions: dict[str, int]


class TooManyRevocations(Refused, status=503, code="too_many_revocations"):
    """More sessions were ended within one token's lifetime than the list can hold."""

    def __init__(self) -> None:
        super().__init__(hint="withdraw the signing key: that ends the tokens of all sessions at once")


class _Entry(msgspec.Struct, frozen=True):
    session_id: str
    until: int


class RevocationList:
    """Keeps the published list as long as it must be. `start` before use, `close` after."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Publishes what is stored, for a bus that lost it."""
        await self._repeat()
        self._task = asyncio.create_task(self._keep(), name="auth revocations")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def published(self) -> bool:
        """Whether the bus has all of it, after waiting a moment. If not, it will when it can be reached."""
        return await until_acknowledged(self._database, REVOKED_SUBJECT)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_REPEAT_EVERY_S)
            try:
                if await acknowledged(self._database, REVOKED_SUBJECT):
                    await self._repeat()
            except AtollError as error:
                _log.warning("the list of ended sessions waits: %s", error)
            except Exception:
                _log.exception("the list of ended sessions can't be kept")

    async def _repeat(self) -> None:
        """Every shard that holds something, and once more the one that has just lost its last entry."""
        async with self._database.reader() as tx:
            shards = [row.shard for row in await tx.all(_Shard, "SELECT DISTINCT shard FROM revocations ORDER BY shard")]
        for shard in shards:
            async with self._database.transaction() as tx:
                await _publish(tx, shard, await _lock(tx, shard))


class _Shard(msgspec.Struct, frozen=True):
    shard: int


async def revoke(tx: Transaction, sessions: Iterable[str]) -> None:
    """Refuses the tokens of `sessions` from the commit on, everywhere within a second of it. Raises TooManyRevocations."""
    by_shard = defaultdict(list)
    for session in sessions:
        by_shard[shard_of(session)].append(session)
    longest_s: int = await tx.scalar("SELECT coalesce(max(token_lifetime_s), 86400) FROM signing_keys")
    until = int(time.time()) + longest_s + _MARGIN_S
    for shard in sorted(by_shard):  # in this order, so that two that need the same shards don't wait for each other
        version = await _lock(tx, shard)
        for session in by_shard[shard]:
            await tx.execute(
                "INSERT INTO revocations (session_id, shard, until) VALUES ($1, $2, $3)"
                " ON CONFLICT (session_id) DO UPDATE SET until = excluded.until",
                *(session, shard, until),
            )
        await _publish(tx, shard, version)


async def _lock(tx: Transaction, shard: int) -> int:
    """The shard's next version: a time, so that an auth whose database was lost publishes newer lists than before."""
    version: int = await tx.scalar(
        "INSERT INTO revocation_shards (shard, version) VALUES ($1, $2) ON CONFLICT (shard) DO UPDATE SET version ="
        " CASE WHEN revocation_shards.version < excluded.version THEN excluded.version ELSE revocation_shards.version + 1 END"
        " RETURNING version",
        *(shard, time.time_ns() // 1_000_000),
    )
    return version


async def _publish(tx: Transaction, shard: int, version: int) -> None:
    """What no token can belong to any more is left out, and forgotten."""
    await tx.execute("DELETE FROM revocations WHERE shard = $1 AND until <= $2", shard, int(time.time()))
    rows = await tx.all(_Entry, "SELECT session_id, until FROM revocations WHERE shard = $1 ORDER BY session_id", shard)
    if len(rows) > _MOST_IN_A_SHARD:
        raise TooManyRevocations
    await tx.publish(SessionsRevoked(shard=shard, version=version, sessions={row.session_id: row.until for row in rows}))
