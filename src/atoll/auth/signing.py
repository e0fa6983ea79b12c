"""The keys that auth signs with, and the rule that one signs only after everybody could have heard of it.

A key is made, stored, and the whole set is put into the outbox, in one transaction. When the bus has acknowledged it, its
outbox row is gone: that, and nothing else, lets the key sign. From then on it may sign at every start, bus or no bus.
The set is published again at every start and every minute, for a bus that lost its store; a repeat has the same version and
changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from atoll.auth.sql import Transaction
from atoll.database.ports import Database
from atoll.errors import AtollError, Refused
from atoll.service.events import Event
from atoll.tokens import Claims, KeySet, PublicKey, SigningKey, sign

__all__ = ["KEYS_SUBJECT", "KeysPublished", "NotSigning", "Signing"]

KEYS_SUBJECT = "keys.set"
_LOOK_EVERY_S = 0.05
_REPEAT_EVERY_S = 60.0
_AFTER_ERROR_S = 1.0
_OUTBOX_ROWS = 256
_log = logging.getLogger("atoll.auth")


class KeysPublished(Event, name="keys_published", key="version", subject=KEYS_SUBJECT):
    """The set as JWKS, on a subject of its own: gateways and services keep the last one."""

    keys: list[PublicKey]
    version: int


class NotSigning(Refused, status=503, code="not_signing"):
    """No token can be signed yet: the signing key has not been published."""

    def __init__(self) -> None:
        super().__init__(hint="auth publishes it as soon as the event bus can be reached; try again in a second")


class _Row(msgspec.Struct, frozen=True):
    private_jwk: str
    acknowledged_at: int | None


class Signing:
    """Signs with the newest acknowledged key. `start` before use, `close` after."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: list[SigningKey] = []
        self._signer: SigningKey | None = None
        self._set = KeySet()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Loads the keys, makes the first one if there is none, and publishes the set."""
        await self._publish()
        self._task = asyncio.create_task(self._keep(), name="auth signing keys")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def key_set(self) -> KeySet:
        """Every key that a token may be signed with, as published."""
        return self._set

    @property
    def ready(self) -> bool:
        """Whether a key may sign."""
        return self._signer is not None

    async def check(self) -> None:
        """Raises NotSigning while no key may sign."""
        await self._look()
        if self._signer is None:
            raise NotSigning

    def sign(self, claims: Claims) -> str:
        """The token. Raises NotSigning while no key may sign."""
        if self._signer is None:
            raise NotSigning
        return sign(claims, self._signer)

    async def _publish(self) -> None:
        async with self._database.transaction() as tx:
            version = await _lock(tx)
            rows = await _rows(tx)
            if not rows:
                rows, version = [await _make(tx)], await _next_version(tx)
            self._take(rows)
            self._set = KeySet.of((key.public for key in self._keys), version)
            await tx.publish(KeysPublished(keys=list(self._set.keys), version=version))

    def _take(self, rows: list[_Row]) -> None:
        """`rows`, oldest first, are what the database holds."""
        self._keys = [SigningKey.parse(row.private_jwk) for row in rows]
        acknowledged = [key for key, row in zip(self._keys, rows, strict=True) if row.acknowledged_at is not None]
        self._signer = acknowledged[-1] if acknowledged else None

    async def _look(self) -> None:
        """Has the bus acknowledged what was published? Then every key of the set may sign."""
        if self.ready:
            return
        waiting = await self._database.journal.outbox(_OUTBOX_ROWS)
        if len(waiting) == _OUTBOX_ROWS or any(row.subject == KEYS_SUBJECT for row in waiting):
            return
        async with self._database.transaction() as tx:
            for key in self._keys:
                await tx.execute(
                    "UPDATE signing_keys SET acknowledged_at = $1 WHERE kid = $2 AND acknowledged_at IS NULL",
                    *(int(time.time()), key.kid),
                )
            self._take(await _rows(tx))
        if self._signer is not None:
            _log.info("tokens are signed with key %s", self._signer.kid)

    async def _keep(self) -> None:
        while True:
            ready = self.ready
            await asyncio.sleep(_REPEAT_EVERY_S if ready else _LOOK_EVERY_S)
            try:
                await (self._repeat() if ready else self._look())
            except AtollError as error:
                _log.warning("the signing keys wait: %s", error)
                await asyncio.sleep(_AFTER_ERROR_S)
            except Exception:
                _log.exception("the signing keys can't be kept")
                await asyncio.sleep(_AFTER_ERROR_S)

    async def _repeat(self) -> None:
        """Not while the last one still waits: a bus that is down for an hour would find sixty."""
        waiting = await self._database.journal.outbox(_OUTBOX_ROWS)
        if not any(row.subject == KEYS_SUBJECT for row in waiting):
            await self._publish()


async def _lock(tx: Transaction) -> int:
    """The set's version. The second replica of a first start waits here, and then finds the first one's key."""
    version: int = await tx.scalar("UPDATE key_set SET version = version WHERE id = 1 RETURNING version")
    return version


async def _next_version(tx: Transaction) -> int:
    """A time, so that the sets of an auth whose database was lost are newer than those that services keep."""
    version = time.time_ns() // 1_000_000
    await tx.execute("UPDATE key_set SET version = $1 WHERE id = 1", version)
    return version


async def _rows(tx: Transaction) -> list[_Row]:
    return await tx.all(_Row, "SELECT private_jwk, acknowledged_at FROM signing_keys ORDER BY created_at, kid")


async def _make(tx: Transaction) -> _Row:
    key = SigningKey.generate()
    await tx.execute(
        "INSERT INTO signing_keys (kid, private_jwk, created_at, acknowledged_at) VALUES ($1, $2, $3, NULL)",
        *(key.kid, key.private_jwk, int(time.time())),
    )
    return _Row(key.private_jwk, None)
