"""Operations that end things: a key's time, a session, a user's access. All but sign-out need the scope `auth:admin`."""

from __future__ import annotations

from typing import Annotated, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from atoll.auth import accounts, oauth
from atoll.auth.answers import UNCACHED, answer, refusal
from atoll.auth.api_keys import ApiKey, ApiKeys, MadeApiKey, NewApiKey
from atoll.auth.configuration import ADMIN
from atoll.auth.grants import Grants
from atoll.auth.oauth import OAuthError, RevocationForm
from atoll.auth.passwords import Busy
from atoll.auth.revocations import TooManyRevocations
from atoll.auth.sessions import Ended, Session, Sessions
from atoll.auth.signing import KeyState, NextKeyUnknown, Signing
from atoll.database.ports import Database
from atoll.errors import NotFound
from atoll.service.parameters import Form
from atoll.service.principal import Principal
from atoll.service.router import Router

__all__ = ["administration"]

administration = Router("/auth")


class Keys(msgspec.Struct, frozen=True):
    """The keys there are, oldest first. Not `published`: the bus has not acknowledged the last change yet."""

    keys: list[KeyState]
    published: bool


class Account(msgspec.Struct, frozen=True):
    """A user as an administrator sees one."""

    id: str
    username: str
    scope: str
    blocked: bool


@administration.get("/keys", scope=ADMIN)
async def keys(signing: Signing) -> Keys:
    """The signing keys and their states: published, next, signing, verifying."""
    found = await signing.states()
    return Keys(found, not any(key.state == "published" for key in found))


@administration.post("/keys/rotation", scope=ADMIN, status=200, raises=[NextKeyUnknown])
async def rotate(signing: Signing) -> Keys:
    """The next key signs from now on; the former one verifies until the last token that it signed has expired."""
    published = await signing.rotate()
    return Keys(await signing.states(), published)


@administration.delete("/keys/{kid}", scope=ADMIN, raises=[NotFound])
async def withdraw(kid: str, signing: Signing) -> Keys:
    """Takes a key out of use at once: every token that it signed is refused within a second, and another key signs."""
    published = await signing.withdraw(kid)
    return Keys(await signing.states(), published)


@administration.post("/revoke", public=True, status=200, raises=[Busy, TooManyRevocations])
async def revoke(form: Annotated[RevocationForm, Form()], request: Request, grants: Grants, sessions: Sessions) -> Response:
    """Ends the session that a refresh or access token belongs to (RFC 7009). A token that is none is answered the same.

    The token of an API key is refused (`unsupported_token_type`): delete the key.
    """
    names = [name for name, _ in (await request.form()).multi_items()]
    try:
        wanted = oauth.read_revocation(form, names, request.headers.get("authorization", ""))
        client = await grants.identified(wanted.client)
        await sessions.revoke(wanted.token, client.id if client else "")
    except OAuthError as error:
        return refusal(error)
    return Response(headers=UNCACHED)


@administration.get("/sessions")
async def own_sessions(caller: Principal, sessions: Sessions) -> list[Session]:
    """The caller's sign-ins that can still be refreshed."""
    return await sessions.of_user(caller.id)


@administration.delete("/sessions/{session_id}", raises=[NotFound, TooManyRevocations])
async def end_session(session_id: str, caller: Principal, sessions: Sessions) -> Ended:
    """Signs out: no refresh any more, and the session's tokens are refused within a second. Others' need `auth:admin`."""
    return await sessions.end(session_id, caller)


@administration.get("/users", scope=ADMIN, raises=[NotFound])
async def find_user(username: str, database: Database) -> Account:
    """The user of this name."""
    async with database.reader() as tx:
        user = await accounts.user(tx, username)
    if user is None:
        raise NotFound(f"there is no user {username[:64]!r}")
    return Account(user.id, user.username, user.scope, user.blocked_at is not None)


@administration.delete("/users/{user_id}/sessions", scope=ADMIN, raises=[NotFound, TooManyRevocations])
async def end_sessions_of_user(user_id: str, sessions: Sessions) -> Ended:
    """Ends every session of a user, who can sign in again."""
    return await sessions.end_all_of_user(user_id)


@administration.put("/users/{user_id}/block", scope=ADMIN, raises=[NotFound, TooManyRevocations])
async def block(user_id: str, sessions: Sessions) -> Ended:
    """Ends every session of a user, who can't sign in any more."""
    return await sessions.block(user_id)


@administration.delete("/users/{user_id}/block", scope=ADMIN, raises=[NotFound])
async def unblock(user_id: str, sessions: Sessions) -> None:
    """The user can sign in again."""
    await sessions.unblock(user_id)


@administration.delete("/clients/{client_id}/sessions", scope=ADMIN, raises=[NotFound, TooManyRevocations])
async def end_sessions_of_client(client_id: str, sessions: Sessions) -> Ended:
    """Refuses every token that a client got for its credentials, which stay good; API keys and their tokens stay too."""
    return await sessions.end_all_of_client(client_id)


@administration.post("/clients/{client_id}/keys", scope=ADMIN, raises=[NotFound])
async def make_api_key(client_id: str, wanted: NewApiKey, api_keys: ApiKeys) -> MadeApiKey:
    """A new API key for a client. It is shown this once: only its digest is kept."""
    return cast(MadeApiKey, answer(await api_keys.make(client_id, wanted), UNCACHED, 201))


@administration.get("/clients/{client_id}/keys", scope=ADMIN, raises=[NotFound])
async def api_keys_of_client(client_id: str, api_keys: ApiKeys) -> list[ApiKey]:
    """A client's API keys, oldest first."""
    return await api_keys.of_client(client_id)


@administration.delete("/clients/{client_id}/keys/{key_id}", scope=ADMIN, raises=[NotFound, TooManyRevocations])
async def delete_api_key(client_id: str, key_id: str, api_keys: ApiKeys) -> Ended:
    """Refuses the key, and every token that was given for it, within a second."""
    return await api_keys.delete(client_id, key_id)
