"""API keys: what a machine client sends as it is, with every request, where it can't keep a token fresh.

A key is exchanged for a short-lived token (RFC 8693), which the gateway does on the client's behalf. So behind the gateway
there are tokens only, and scopes, limits and revocation are one mechanism: the key's id is the session of its tokens.
"""

from __future__ import annotations

import secrets
import time
from typing import Annotated

import msgspec

from atoll.auth import accounts
from atoll.auth.digests import digest
from atoll.auth.oauth import narrowed
from atoll.auth.revocations import RevocationList, revoke
from atoll.auth.sessions import Ended
from atoll.auth.sql import Transaction
from atoll.database.ports import Database
from atoll.delivery.envelope import new_id
from atoll.errors import Invalid, NotFound

__all__ = ["ApiKey", "ApiKeys", "MadeApiKey", "NewApiKey", "api_key"]

_PREFIX = "atoll"  # so that scanners find a key that somebody committed
_TEN_YEARS_S = 10 * 365 * 86_400


class NewApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key that is wanted. Without `scopes` it may do what its client may; without `expires_in_s` it is good until deleted."""

    name: Annotated[str, msgspec.Meta(max_length=100)] = ""
    scopes: list[str] | None = None
    expires_in_s: Annotated[int, msgspec.Meta(ge=1, le=_TEN_YEARS_S)] | None = None


class ApiKey(msgspec.Struct, frozen=True):
    """A key without its secret, which nobody knows any more. Times are epoch seconds."""

    id: str
    client_id: str
    name: str
    scope: str
    created_at: int
    expires_at: int | None


class MadeApiKey(msgspec.Struct, frozen=True):
    """The one time that `key` is shown."""

    id: str
    key: str
    scope: str
    expires_at: int | None


class ApiKeys:
    """Makes, lists and deletes them."""

    def __init__(self, database: Database, revocations: RevocationList) -> None:
        self._database = database
        self._revocations = revocations

    async def make(self, client_id: str, wanted: NewApiKey) -> MadeApiKey:
        """Raises NotFound for the client, Invalid for scopes that it does not have."""
        now, key_id = int(time.time()), new_id()
        expires_at = now + wanted.expires_in_s if wanted.expires_in_s else None
        async with self._database.transaction() as tx:
            scope = _scope(await _client(tx, client_id), wanted.scopes)
            key = f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
            await tx.execute(
                "INSERT INTO api_keys (id, client_id, digest, name, scope, created_at, expires_at)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7)",
                *(key_id, client_id, digest(key), wanted.name, scope, now, expires_at),
            )
        return MadeApiKey(key_id, key, scope, expires_at)

    async def of_client(self, client_id: str) -> list[ApiKey]:
        """Oldest first, those that have expired too. Raises NotFound."""
        async with self._database.reader() as tx:
            await _client(tx, client_id)
            found: list[ApiKey] = await tx.all(
                ApiKey, f"SELECT {_COLUMNS} FROM api_keys WHERE client_id = $1 ORDER BY created_at, id", client_id
            )
            return found

    async def delete(self, client_id: str, key_id: str) -> Ended:
        """The key and every token that was given for it are refused within a second. Raises NotFound."""
        async with self._database.transaction() as tx:
            if not await tx.execute("DELETE FROM api_keys WHERE id = $1 AND client_id = $2", key_id, client_id):
                raise NotFound(f"{client_id[:64]!r} has no key {key_id[:64]!r}")
            await revoke(tx, [key_id])
        return Ended(1, await self._revocations.published())


_COLUMNS = "id, client_id, name, scope, created_at, expires_at"


async def api_key(tx: Transaction, key: str) -> ApiKey | None:
    """The key that this is, expired or not."""
    return await tx.one_or_none(ApiKey, f"SELECT {_COLUMNS} FROM api_keys WHERE digest = $1", digest(key))


async def _client(tx: Transaction, client_id: str) -> accounts.Client:
    client = await accounts.client(tx, client_id)
    if client is None:
        raise NotFound(f"there is no client {client_id[:64]!r}", hint="clients stand in [auth.clients] of the manifest")
    return client


def _scope(client: accounts.Client, wanted: list[str] | None) -> str:
    try:
        return narrowed(client.scope, None if wanted is None else frozenset(wanted))
    except ValueError as error:
        raise Invalid(faults=[{"field": "scopes", "detail": f"{client.id} does not have {error}"}]) from None
