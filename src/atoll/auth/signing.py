"""The keys that auth signs with, and the rule that one signs only after everybody could have heard of it.

There are always two: one signs, the next one waits, published long before its turn. So a rotation, planned or forced, changes
the signer at once, and no token is ever signed with a key that a gateway has not heard of. A key's life:

    published   in the set, not acknowledged by the bus: it does not sign
    next        acknowledged; its turn comes with a rotation, or when the signing key is withdrawn
    signing
    verifying   its successor signs; it stays in the set until the last token that it signed has expired
    (withdrawn) out of the set, from one moment to the next: whatever it signed is refused

A key is made, stored, and the whole set is put into the outbox, in one transaction. When the bus has acknowledged it, its
outbox row is gone: that, and nothing else, lets the key sign. From then on it may sign at every start, bus or no bus.
The set is published again at every start and every minute, for a bus that lost its store; a repeat has the same version and
changes nothing. The database is what counts: another replica's change is seen before the next token is signed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Literal

import msgspec

from atoll.auth.configuration import Configuration
from atoll.auth.publication import acknowledged, until_acknowledged
from atoll.auth.sql import Transaction
from atoll.database.ports import Database
from atoll.errors import AtollError, NotFound, Refused
from atoll.service.events import Event
from atoll.tokens import Claims, KeySet, PublicKey, SigningKey, sign

__all__ = ["KEYS_SUBJECT", "KeyState", "KeysPublished", "NextKeyUnknown", "NotSigning", "Signing"]

KEYS_SUBJECT = "keys.set"
_LOOK_EVERY_S = 0.05
_REPEAT_EVERY_S = 60.0
_AFTER_ERROR_S = 1.0
_KNOWN_AFTER_S = 2  # acknowledgements are whole seconds: at least one has passed
_MARGIN_S = 5  # the gateway takes a token for two seconds more, and clocks differ
_log = logging.getLogger("atoll.auth")


class KeysPublished(Event, name="keys_published", key="version", subject=KEYS_SUBJECT):
    """The set as JWKS, on a subject of its own: gateways and services keep the last one."""

    keys: list[PublicKey]
    version: int


class NotSigning(Refused, status=503, code="not_signing"):
    """No token can be signed yet: the signing key has not been published."""

    def __init__(self) -> None:
        super().__init__(hint="auth publishes it as soon as the event bus can be reached; try again in a second")


class NextKeyUnknown(Refused, status=503, code="next_key_unknown"):
    """The next key was published a moment ago: gateways and services may not have heard of it yet."""

    def __init__(self) -> None:
        super().__init__(hint="try again in two seconds; if that does not help, the event bus can't be reached")


class KeyState(msgspec.Struct, frozen=True):
    """A key as an operator sees it. Times are epoch seconds; `until` is when a verifying one leaves the set."""

    kid: str
    state: Literal["published", "next", "signing", "verifying"]
    created_at: int
    until: int | None = None


class _Row(msgspec.Struct, frozen=True):
    kid: str
    private_jwk: str
    created_at: int
    acknowledged_at: int | None
    token_lifetime_s: int
    retired_at: int | None
    verifies_until: int | None


class Signing:
    """Signs with the oldest acknowledged key that is not retired. `start` before use, `close` after."""

    def __init__(self, database: Database, configuration: Configuration) -> None:
        self._database = database
        self._lifetime_s = configuration.access_token_lifetime_s
        self._rotate_every_s = configuration.rotate_keys_every_s
        self._rows: list[_Row] = []
        self._signer: SigningKey | None = None
        self._set = KeySet()
        self._task: asyncio.Task[None] | None = None
        self._repeat_at = 0.0

    async def start(self) -> None:
        """Loads the keys, makes those that are missing, and publishes the set."""
        async with self._database.transaction() as tx:
            version = await _lock(tx)
            await tx.execute(
                "UPDATE signing_keys SET token_lifetime_s = $1 WHERE retired_at IS NULL AND token_lifetime_s < $1",
                self._lifetime_s,
            )
            complete = len(_active(await _rows(tx))) == 2
            found = await self._publish(tx, version) if complete else await self._changed(tx, version)
        self._take(*found)
        self._task = asyncio.create_task(self._keep(), name="auth signing keys")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def ready(self) -> bool:
        """Whether a key may sign."""
        return self._signer is not None

    async def key_set(self) -> KeySet:
        """Every key that a token may be signed with, as published."""
        await self._refresh()
        return self._set

    async def states(self) -> list[KeyState]:
        """Every key of the set, oldest first."""
        await self._refresh()
        signer = self._signer.kid if self._signer else ""
        return [KeyState(row.kid, _state(row, signer), row.created_at, row.verifies_until) for row in self._rows]

    async def check(self) -> None:
        """Raises NotSigning while no key may sign."""
        await self._refresh()
        await self._look()
        if self._signer is None:
            raise NotSigning

    async def sign(self, claims: Claims) -> str:
        """The token. Raises NotSigning while no key may sign."""
        await self._refresh()
        if self._signer is None:
            raise NotSigning
        return sign(claims, self._signer)

    async def rotate(self) -> bool:
        """The next key signs from now on, and one is made to follow it; the former verifies until its tokens have expired.

        Whether the bus has acknowledged the new set: if not, it will, and nothing is wrong meanwhile. Raises NextKeyUnknown.
        """
        async with self._database.transaction() as tx:
            version = await _lock(tx)
            await self._retire(tx, _active(await _rows(tx)))
            found = await self._changed(tx, version)
        self._take(*found)
        return await until_acknowledged(self._database, KEYS_SUBJECT)

    async def withdraw(self, kid: str) -> bool:
        """Takes a key out of the set at once: every token that it signed is refused, by gateway and services within a second.

        Whether the bus has acknowledged that: if not, they go on accepting those tokens until it has. Raises NotFound.
        """
        async with self._database.transaction() as tx:
            version = await _lock(tx)
            if not await tx.execute("DELETE FROM signing_keys WHERE kid = $1", kid):
                raise NotFound(f"there is no key {kid[:64]!r}", hint="GET /auth/keys lists them")
            found = await self._changed(tx, version)
        self._take(*found)
        _log.warning("key %s is withdrawn: what it signed is refused from now on", kid)
        return await until_acknowledged(self._database, KEYS_SUBJECT)

    async def _retire(self, tx: Transaction, active: list[_Row]) -> None:
        now = int(time.time())
        former, following = active
        if following.acknowledged_at is None or now - following.acknowledged_at < _KNOWN_AFTER_S:
            raise NextKeyUnknown
        await tx.execute(
            "UPDATE signing_keys SET retired_at = $1, verifies_until = $2 WHERE kid = $3",
            *(now, now + former.token_lifetime_s + _MARGIN_S, former.kid),
        )

    async def _changed(self, tx: Transaction, version: int) -> tuple[list[_Row], int]:
        """Publishes a newer set, with the keys that are missing."""
        version = max(version + 1, time.time_ns() // 1_000_000)  # a time: newer than the sets of an auth that lost its database
        for _ in range(2 - len(_active(await _rows(tx)))):
            await self._make(tx, version)
            version += 1
        return await self._publish(tx, version)

    async def _publish(self, tx: Transaction, version: int) -> tuple[list[_Row], int]:
        await tx.execute("UPDATE key_set SET version = $1 WHERE id = 1", version)
        rows = await _rows(tx)
        await tx.publish(KeysPublished(keys=list(_set(rows, version).keys), version=version))
        return rows, version

    async def _make(self, tx: Transaction, version: int) -> None:
        key = SigningKey.generate()
        await tx.execute(
            "INSERT INTO signing_keys (kid, private_jwk, created_at, since_version, token_lifetime_s)"
            " VALUES ($1, $2, $3, $4, $5)",
            *(key.kid, key.private_jwk, int(time.time()), version, self._lifetime_s),
        )

    def _take(self, rows: list[_Row], version: int) -> None:
        """`rows`, oldest first, are what the database holds."""
        before = self._signer
        able = [row for row in _active(rows) if row.acknowledged_at is not None]
        self._rows, self._set = rows, _set(rows, version)
        self._signer = SigningKey.parse(able[0].private_jwk) if able else None
        if self._signer is not None and self._signer != before:
            _log.info("tokens are signed with key %s", self._signer.kid)

    async def _refresh(self) -> None:
        """What another replica has changed: nobody may sign with a key that it withdrew."""
        async with self._database.reader() as tx:
            version: int = await tx.scalar("SELECT version FROM key_set WHERE id = 1")
            if version == self._set.version:
                return
            rows = await _rows(tx)
        self._take(rows, version)

    async def _look(self) -> None:
        """Has the bus acknowledged what was published? Then every key of the set may sign when its turn comes."""
        if all(row.acknowledged_at is not None for row in self._rows):
            return
        looked_for = self._set.version
        if not await acknowledged(self._database, KEYS_SUBJECT):
            return
        async with self._database.transaction() as tx:
            version = await _lock(tx)
            if version == looked_for:  # the very set that was acknowledged
                await tx.execute("UPDATE signing_keys SET acknowledged_at = $1 WHERE acknowledged_at IS NULL", int(time.time()))
            rows = await _rows(tx)
        self._take(rows, version)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s())
            try:
                await self._refresh()
                await self._look()
                await self._tend()
            except AtollError as error:
                _log.warning("the signing keys wait: %s", error)
                await asyncio.sleep(_AFTER_ERROR_S)
            except Exception:
                _log.exception("the signing keys can't be kept")
                await asyncio.sleep(_AFTER_ERROR_S)

    def _pause_s(self) -> float:
        """Short while an acknowledgement is awaited, else until something is due."""
        if any(row.acknowledged_at is None for row in self._rows):
            return _LOOK_EVERY_S if not self.ready else 10 * _LOOK_EVERY_S
        due = min([self._rotation_at(), *(row.verifies_until for row in self._rows if row.verifies_until)])
        return min(_REPEAT_EVERY_S, max(_LOOK_EVERY_S, due - time.time()))

    def _rotation_at(self) -> float:
        """The next key was made when the present one began to sign."""
        *_, following = _active(self._rows)
        known = (following.acknowledged_at or time.time()) + _KNOWN_AFTER_S
        return max(following.created_at + self._rotate_every_s, known)

    async def _tend(self) -> None:
        now = time.time()
        if any(row.verifies_until is not None and row.verifies_until <= now for row in self._rows):
            await self._drop(int(now))
        elif self._rotation_at() <= now:
            await self._rotate_when_due()
        elif time.monotonic() >= self._repeat_at:
            await self._repeat()

    async def _drop(self, now: int) -> None:
        """Keys whose last token has expired leave the set."""
        async with self._database.transaction() as tx:
            version = await _lock(tx)
            dropped = await tx.execute("DELETE FROM signing_keys WHERE verifies_until <= $1", now)
            found = await (self._changed(tx, version) if dropped else _state_of(tx, version))
        self._take(*found)

    async def _rotate_when_due(self) -> None:
        """By one of the replicas: the others find a younger next key when they have the lock."""
        async with self._database.transaction() as tx:
            version = await _lock(tx)
            if version != self._set.version:
                found = await _state_of(tx, version)
            else:
                await self._retire(tx, _active(await _rows(tx)))
                found = await self._changed(tx, version)
        self._take(*found)

    async def _repeat(self) -> None:
        """Not while the last one still waits: a bus that is down for an hour would find sixty."""
        self._repeat_at = time.monotonic() + _REPEAT_EVERY_S
        if await acknowledged(self._database, KEYS_SUBJECT):
            async with self._database.transaction() as tx:
                found = await self._publish(tx, await _lock(tx))
            self._take(*found)


async def _lock(tx: Transaction) -> int:
    """The set's version. The second replica of a first start waits here, and then finds the first one's keys."""
    version: int = await tx.scalar("UPDATE key_set SET version = version WHERE id = 1 RETURNING version")
    return version


async def _rows(tx: Transaction) -> list[_Row]:
    return await tx.all(
        _Row,
        "SELECT kid, private_jwk, created_at, acknowledged_at, token_lifetime_s, retired_at, verifies_until"
        " FROM signing_keys ORDER BY since_version, created_at, kid",
    )


async def _state_of(tx: Transaction, version: int) -> tuple[list[_Row], int]:
    return await _rows(tx), version


def _active(rows: list[_Row]) -> list[_Row]:
    return [row for row in rows if row.retired_at is None]


def _set(rows: list[_Row], version: int) -> KeySet:
    return KeySet.of((SigningKey.parse(row.private_jwk).public for row in rows), version)


def _state(row: _Row, signer: str) -> Literal["published", "next", "signing", "verifying"]:
    if row.kid == signer:
        return "signing"
    if row.retired_at is not None:
        return "verifying"
    return "published" if row.acknowledged_at is None else "next"
