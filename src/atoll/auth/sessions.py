"""Sessions: whose there are, and how they end before their tokens do (RFC 7009, sign-out, an operator's decision)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from atoll.auth.configuration import ADMIN, Configuration
from atoll.auth.digests import digest
from atoll.auth.oauth import OAuthError
from atoll.auth.revocations import RevocationList, revoke
from atoll.auth.signing import Signing
from atoll.auth.sql import Transaction
from atoll.database.ports import Database
from atoll.delivery.envelope import new_id
from atoll.errors import NotFound, Outage, Unauthorized
from atoll.service.principal import Principal
from atoll.tokens import Verifier

__all__ = ["Ended", "Session", "Sessions", "end_sessions"]


class Session(msgspec.Struct, frozen=True):
    """One sign-in. Times are epoch seconds; it ends at `expires_at` unless it is refreshed before."""

    id: str
    scope: str
    created_at: int
    expires_at: int


class Ended(msgspec.Struct, frozen=True):
    """How many sessions were ended. Not `published`: the bus can't be reached, so gateway and services don't know it yet."""

    sessions: int
    published: bool


class _Id(msgspec.Struct, frozen=True):
    id: str


class Sessions:
    """Lists and ends them. Whatever is ended here is refused by gateway and services within a second."""

    def __init__(self, database: Database, configuration: Configuration, signing: Signing, revocations: RevocationList) -> None:
        self._database = database
        self._configuration = configuration
        self._signing = signing
        self._revocations = revocations

    async def of_user(self, user_id: str) -> list[Session]:
        """Those that can be refreshed, oldest first."""
        async with self._database.reader() as tx:
            found: list[Session] = await tx.all(
                Session,
                "SELECT id, scope, created_at, expires_at FROM sessions"
                " WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2 ORDER BY created_at, id",
                *(user_id, int(time.time())),
            )
            return found

    async def end(self, session_id: str, caller: Principal) -> Ended:
        """Raises NotFound, also for a session of somebody else unless the caller may administer."""
        async with self._database.transaction() as tx:
            owner = await _owner(tx, session_id)
            if owner is None or (owner != caller.id and ADMIN not in caller.scopes):
                raise NotFound("there is no such session", hint="GET /auth/sessions lists yours")
            await _end(tx, [session_id])
        return Ended(1, await self._revocations.published())

    async def end_all_of_user(self, user_id: str) -> Ended:
        """Raises NotFound. The user can sign in again: see `block`."""
        async with self._database.transaction() as tx:
            await _known(tx, "users", user_id)
            ended = await self._end_user(tx, user_id)
        return Ended(ended, await self._revocations.published())

    async def end_all_of_client(self, client_id: str) -> Ended:
        """Every token of the client; its credentials and keys stay good. Raises NotFound."""
        async with self._database.transaction() as tx:
            await _known(tx, "clients", client_id)
            ended = await tx.scalar("SELECT session_id FROM clients WHERE id = $1", client_id)
            await _end(tx, [ended] if ended else [])
        return Ended(1 if ended else 0, await self._revocations.published())

    async def block(self, user_id: str) -> Ended:
        """The user can't sign in or refresh any more, and every session ends. Raises NotFound."""
        async with self._database.transaction() as tx:
            await _known(tx, "users", user_id)
            await tx.execute("UPDATE users SET blocked_at = $1 WHERE id = $2", int(time.time()), user_id)
            ended = await self._end_user(tx, user_id)
        return Ended(ended, await self._revocations.published())

    async def unblock(self, user_id: str) -> None:
        """The user can sign in again. Raises NotFound."""
        async with self._database.transaction() as tx:
            await _known(tx, "users", user_id)
            await tx.execute("UPDATE users SET blocked_at = NULL WHERE id = $1", user_id)

    async def revoke(self, token: str, client_id: str) -> None:
        """Ends the session of a refresh or access token (RFC 7009). A token that is none changes nothing (§2.2).

        `client_id` is the client that proved itself, "" for none: another's token is unknown to it. Raises Outage while the bus
        can't be reached: the session is ended, but its access token is still taken (§2.2.1). Raises OAuthError for an API key's
        token, whose session is the key: the many who see such a token may not end what only an administrator can make again.
        """
        session_id = await self._session_of(token, client_id)
        if session_id is None:
            return
        async with self._database.transaction() as tx:
            if await tx.one_or_none(_Id, "SELECT id FROM api_keys WHERE id = $1", session_id):
                raise OAuthError(
                    "unsupported_token_type", "the token of an API key ends with its key: an administrator deletes that"
                )
            await _end(tx, [session_id])
        if not await self._revocations.published():
            raise Outage("the session is ended, but the bus can't be told")

    async def _session_of(self, token: str, client_id: str) -> str | None:
        async with self._database.reader() as tx:
            found = await tx.one_or_none(
                _Id,
                "SELECT s.id FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id"
                " WHERE t.digest = $1 AND s.client_id = $2",
                *(digest(token), client_id),
            )
        return found.id if found else await self._session_of_access_token(token)

    async def _session_of_access_token(self, token: str) -> str | None:
        """Whoever shows it could use it, so may end it."""
        verifier = Verifier(self._configuration.issuer, self._configuration.audience, await self._signing.key_set())
        try:
            return verifier.verify(token, time.time()).sid
        except Unauthorized:
            return None

    async def _end_user(self, tx: Transaction, user_id: str) -> int:
        """Those that expired a moment ago too: their last access tokens may still be good."""
        since = int(time.time()) - self._configuration.access_token_lifetime_s
        found = await tx.all(
            _Id, "SELECT id FROM sessions WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2", user_id, since
        )
        await _end(tx, [session.id for session in found])
        return len(found)


async def end_sessions(tx: Transaction, sessions: Sequence[str]) -> None:
    """No refresh, and no token of them is accepted any more."""
    now = int(time.time())
    for session in sessions:
        await tx.execute("UPDATE sessions SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL", now, session)
        await tx.execute("UPDATE clients SET session_id = $1 WHERE session_id = $2", new_id(), session)
    await revoke(tx, sessions)


_end = end_sessions


async def _owner(tx: Transaction, session_id: str) -> str | None:
    """The user or client whose session it is."""
    found = await tx.one_or_none(
        _Id,
        "SELECT user_id AS id FROM sessions WHERE id = $1 UNION ALL SELECT id FROM clients WHERE session_id = $1",
        session_id,
    )
    return found.id if found else None


async def _known(tx: Transaction, table: str, id_: str) -> None:
    if await tx.one_or_none(_Id, f"SELECT id FROM {table} WHERE id = $1", id_) is None:
        raise NotFound(f"there is no {table.removesuffix('s')} {id_[:64]!r}")
