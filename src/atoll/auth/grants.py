"""The grants (RFC 6749 §4.3, §4.4, §6; RFC 8693), with refresh token rotation and reuse detection (RFC 9700 §4.14.2).

No statement runs while a password is hashed: that takes 20 ms, and a transaction that waits for it would hold up the others.
"""

from __future__ import annotations

import hmac
import secrets
import time

import msgspec

from atoll.auth import accounts, oauth
from atoll.auth.accounts import Client, User
from atoll.auth.api_keys import api_key
from atoll.auth.configuration import ADMIN, OPERATOR, Configuration
from atoll.auth.digests import digest
from atoll.auth.oauth import Credentials, Granted, OAuthError, TokenRequest
from atoll.auth.passwords import Passwords
from atoll.auth.sessions import end_sessions
from atoll.auth.signing import Signing
from atoll.auth.sql import Transaction
from atoll.database.ports import Database
from atoll.delivery.envelope import new_id
from atoll.tokens import Claims

__all__ = ["Grants"]


class _Session(msgspec.Struct, frozen=True):
    """A refresh token with the sign-in it descends from."""

    session_id: str
    user_id: str
    client_id: str
    scope: str
    expires_at: int
    used_at: int | None
    revoked_at: int | None


class Grants:
    """Answers token requests. `configuration` has issuer, audience and lifetimes."""

    def __init__(self, database: Database, configuration: Configuration, passwords: Passwords, signing: Signing) -> None:
        self._database = database
        self._configuration = configuration
        self._passwords = passwords
        self._signing = signing

    async def grant(self, request: TokenRequest) -> Granted:
        """Raises OAuthError for the client's mistakes, NotSigning or Busy (503) when it can't be done now."""
        await self._signing.check()
        match request.grant_type:
            case "password":
                return await self._password(request)
            case "refresh_token":
                return await self._refresh(request)
            case "client_credentials":
                return await self._client_credentials(request)
            case oauth.TOKEN_EXCHANGE:
                return await self._exchange(request)
        raise OAuthError(
            "unsupported_grant_type", f"grant_type is password, refresh_token, client_credentials or {oauth.TOKEN_EXCHANGE}"
        )

    async def _password(self, request: TokenRequest) -> Granted:
        username, password = request.required("username"), request.required("password")
        client = await self.identified(request.client)
        async with self._database.reader() as tx:
            user = await accounts.user(tx, username)
        good = await self._passwords.verify(user.password_hash if user else None, password)
        if user is None or not good:
            raise OAuthError("invalid_grant", "username or password is wrong")
        scope = _narrowed(user.scope, request.scopes)
        return await self._signed_in(user, client.id if client else "", scope)

    async def _signed_in(self, user: User, client_id: str, scope: str) -> Granted:
        """A new session with its first refresh token. Raises OAuthError for who is blocked, also since `user` was read."""
        now, session_id = int(time.time()), new_id()
        async with self._database.transaction() as tx:
            await _hold_unblocked(tx, user.id)
            await _forget_sessions(tx, user.id, now - self._configuration.access_token_lifetime_s)
            await tx.execute(
                "INSERT INTO sessions (id, user_id, client_id, scope, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
                *(session_id, user.id, client_id, scope, now, now + self._configuration.refresh_token_lifetime_s),
            )
            refresh_token = await self._issue(tx, session_id, now)
        return await self._granted(user.id, session_id, scope, refresh_token)

    async def _refresh(self, request: TokenRequest) -> Granted:
        token_digest = digest(request.required("refresh_token"))
        client = await self.identified(request.client)
        now = int(time.time())
        async with self._database.transaction() as tx:
            session = await _session(tx, token_digest)
            if session is None or session.client_id != (client.id if client else ""):
                raise OAuthError("invalid_grant", "the refresh token is not known")
            if session.revoked_at is not None:
                raise OAuthError("invalid_grant", "the session was ended")
            if now >= session.expires_at:
                raise OAuthError("invalid_grant", "the refresh token has expired")
            user = await accounts.user_of_id(tx, session.user_id)
            if user is None or user.blocked_at is not None:
                raise OAuthError("invalid_grant", "the user is gone or blocked")
            scope = _narrowed(_common(session.scope, user.scope), request.scopes)
            refresh_token = await self._rotate(tx, session.session_id, token_digest, now)
        if refresh_token is None:  # after the commit: raising inside would have undone the revocation
            raise OAuthError("invalid_grant", "the refresh token was used before, so its session has been ended")
        return await self._granted(user.id, session.session_id, scope, refresh_token)

    async def _rotate(self, tx: Transaction, session_id: str, token_digest: str, now: int) -> str | None:
        """The next refresh token. None when this one was used already: somebody has a copy, so the session is revoked."""
        used = await tx.execute(
            "UPDATE refresh_tokens SET used_at = $1 WHERE digest = $2 AND used_at IS NULL", now, token_digest
        )
        if not used:
            await end_sessions(tx, [session_id])
            return None
        await tx.execute("DELETE FROM refresh_tokens WHERE session_id = $1 AND expires_at <= $2", session_id, now)
        await tx.execute(
            "UPDATE sessions SET expires_at = $1 WHERE id = $2", now + self._configuration.refresh_token_lifetime_s, session_id
        )
        return await self._issue(tx, session_id, now)

    async def _client_credentials(self, request: TokenRequest) -> Granted:
        """No refresh token: the client has its credentials (§4.4.3)."""
        client = await self.identified(request.client)
        if client is None:
            raise OAuthError("invalid_client", "this grant is for clients that prove who they are")
        session_id = new_id() if client.id == OPERATOR else await self._session_of(client)
        return await self._granted(client.id, session_id, _narrowed(client.scope, request.scopes))

    async def _exchange(self, request: TokenRequest) -> Granted:
        """A token for an API key (RFC 8693). It ends with the key: the key's id is its session."""
        if request.required("subject_token_type") != oauth.API_KEY:
            raise OAuthError("invalid_request", f"subject_token_type is {oauth.API_KEY}")
        async with self._database.reader() as tx:
            key = await api_key(tx, request.required("subject_token"))
            client = await accounts.client(tx, key.client_id) if key else None
        if key is None or client is None or (key.expires_at is not None and key.expires_at <= int(time.time())):
            raise OAuthError("invalid_grant", "the API key is not known or has expired")
        scope = _narrowed(_common(key.scope, client.scope), request.scopes)
        claims = self._claims(client.id, key.id, scope)
        until = claims.exp if key.expires_at is None else min(claims.exp, key.expires_at)
        granted = await self._signed(msgspec.structs.replace(claims, exp=until, atoll_key=key.id))
        return msgspec.structs.replace(granted, issued_token_type=oauth.ACCESS_TOKEN)

    async def _session_of(self, client: Client) -> str:
        """One for all its tokens, so that they can be ended together."""
        if client.session_id:
            return client.session_id
        async with self._database.transaction() as tx:
            await tx.execute("UPDATE clients SET session_id = $1 WHERE id = $2 AND session_id = ''", new_id(), client.id)
            session_id: str = await tx.scalar("SELECT session_id FROM clients WHERE id = $1", client.id)
            return session_id

    async def identified(self, credentials: Credentials | None) -> Client | None:
        """The client that proved itself. A name without a secret proves nothing and counts as none. Raises OAuthError."""
        if credentials is None or credentials.secret is None:
            return None
        if credentials.id == OPERATOR:
            return self._operator(credentials.secret)
        async with self._database.reader() as tx:
            client = await accounts.client(tx, credentials.id)
        good = await self._passwords.verify(client.secret_hash if client else None, credentials.secret)
        if client is None or not good:
            raise OAuthError("invalid_client", "the client is not known or its secret is wrong")
        return client

    def _operator(self, secret: str) -> Client:
        """Its secret is random and long, and stands in the environment: there is nothing to be slow about, and no row."""
        expected = self._configuration.operator_secret
        if not expected or not hmac.compare_digest(expected.encode(), secret.encode()):
            raise OAuthError("invalid_client", "the client is not known or its secret is wrong")
        return Client(OPERATOR, "", ADMIN)

    async def _issue(self, tx: Transaction, session_id: str, now: int) -> str:
        token = secrets.token_urlsafe(32)
        await tx.execute(
            "INSERT INTO refresh_tokens (digest, session_id, expires_at) VALUES ($1, $2, $3)",
            *(digest(token), session_id, now + self._configuration.refresh_token_lifetime_s),
        )
        return token

    async def _granted(self, subject: str, session_id: str, scope: str, refresh_token: str = "") -> Granted:
        return await self._signed(self._claims(subject, session_id, scope), refresh_token)

    def _claims(self, subject: str, session_id: str, scope: str) -> Claims:
        """From now on, for as long as access tokens live."""
        now, settings = int(time.time()), self._configuration
        return Claims(
            iss=settings.issuer,
            aud=settings.audience,
            sub=subject,
            scope=scope,
            iat=now,
            exp=now + settings.access_token_lifetime_s,
            jti=new_id(),
            sid=session_id,
        )

    async def _signed(self, claims: Claims, refresh_token: str = "") -> Granted:
        return Granted(await self._signing.sign(claims), claims.exp - claims.iat, claims.scope, "Bearer", refresh_token)


async def _session(tx: Transaction, token_digest: str) -> _Session | None:
    return await tx.one_or_none(
        _Session,
        "SELECT s.id AS session_id, s.user_id, s.client_id, s.scope, t.expires_at, t.used_at, s.revoked_at"
        " FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id WHERE t.digest = $1",
        token_digest,
    )


async def _hold_unblocked(tx: Transaction, user_id: str) -> None:
    """Locks the row, which changes nothing else: a block comes either before the session, or after it and ends it."""
    if not await tx.execute("UPDATE users SET blocked_at = NULL WHERE id = $1 AND blocked_at IS NULL", user_id):
        raise OAuthError("invalid_grant", "the account is blocked")


async def _forget_sessions(tx: Transaction, user_id: str, now: int) -> None:
    """Those of this user that have expired, with their refresh tokens."""
    ended = "SELECT id FROM sessions WHERE user_id = $1 AND expires_at <= $2"
    await tx.execute(f"DELETE FROM refresh_tokens WHERE session_id IN ({ended})", user_id, now)
    await tx.execute("DELETE FROM sessions WHERE user_id = $1 AND expires_at <= $2", user_id, now)


def _narrowed(scope: str, wanted: frozenset[str] | None) -> str:
    """The scopes that were asked for. Raises OAuthError when one is not among them."""
    try:
        return oauth.narrowed(scope, wanted)
    except ValueError as beyond:
        raise OAuthError("invalid_scope", f"not yours to have: {beyond}") from None


def _common(scope: str, other: str) -> str:
    kept = set(other.split())
    return " ".join(one for one in scope.split() if one in kept)
