"""Users and clients: who may sign in, and with which rights."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Annotated

import msgspec

from atoll.auth.configuration import Account, Configuration
from atoll.auth.oauth import is_text
from atoll.auth.passwords import Passwords
from atoll.auth.sql import Transaction
from atoll.database.ports import Database
from atoll.delivery.envelope import new_id
from atoll.errors import Conflict, Invalid
from atoll.service.events import Event

__all__ = ["Accounts", "Client", "NewUser", "User", "UserRegistered", "client", "user", "user_of_id"]

Username = Annotated[str, msgspec.Meta(min_length=1, max_length=64, description="shown as given; unique in any case")]
Password = Annotated[str, msgspec.Meta(min_length=8, max_length=256)]


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody registers. The password has at least 8 characters; what they are is up to the user (NIST SP 800-63B §5.1.1)."""

    username: Username
    password: Password


class User(msgspec.Struct, frozen=True):
    id: str
    username: str
    password_hash: str
    scope: str
    blocked_at: int | None = None


class Client(msgspec.Struct, frozen=True):
    """A program with credentials of its own. Its tokens are of one session, which begins with the first of them."""

    id: str
    secret_hash: str
    scope: str
    session_id: str = ""


class UserRegistered(Event, name="user_registered", key="user_id"):
    """Somebody can sign in from now on."""

    user_id: str
    username: str


async def user(tx: Transaction, username: str) -> User | None:
    """Who signs in under this name, whatever its case."""
    return await tx.one_or_none(
        User, "SELECT id, username, password_hash, scope, blocked_at FROM users WHERE username_key = $1", _key(username)
    )


async def user_of_id(tx: Transaction, user_id: str) -> User | None:
    return await tx.one_or_none(User, "SELECT id, username, password_hash, scope, blocked_at FROM users WHERE id = $1", user_id)


async def client(tx: Transaction, client_id: str) -> Client | None:
    return await tx.one_or_none(Client, "SELECT id, secret_hash, scope, session_id FROM clients WHERE id = $1", client_id)


class Accounts:
    """Makes users and clients."""

    def __init__(self, database: Database, configuration: Configuration, passwords: Passwords) -> None:
        self._database = database
        self._configuration = configuration
        self._passwords = passwords

    async def register(self, wanted: NewUser) -> User:
        """The new user, with the default scopes. Raises Conflict when the name is taken, Invalid when it is none."""
        if faults := list(_faults(wanted)):
            raise Invalid(faults=faults)
        hashed = await self._passwords.hash(wanted.password)
        async with self._database.transaction() as tx:
            return await _add(tx, wanted.username, hashed, self._configuration.default_scopes)

    async def seed(self) -> None:
        """Makes the configured users and clients that don't exist yet. Those that do are left as they are, scopes too."""
        for username, account in self._configuration.users.items():
            await self._seed_user(username, account)
        for client_id, account in self._configuration.clients.items():
            await self._seed_client(client_id, account)

    async def _seed_user(self, username: str, account: Account) -> None:
        async with self._database.reader() as tx:
            if await user(tx, username) is not None:
                return
        hashed = await self._passwords.hash(account.secret)
        with suppress(Conflict):  # another replica was faster
            async with self._database.transaction() as tx:
                await _add(tx, username, hashed, account.scopes)

    async def _seed_client(self, client_id: str, account: Account) -> None:
        async with self._database.reader() as tx:
            if await client(tx, client_id) is not None:
                return
        hashed = await self._passwords.hash(account.secret)
        async with self._database.transaction() as tx:
            await tx.execute(
                "INSERT INTO clients (id, secret_hash, scope, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING",
                *(client_id, hashed, " ".join(account.scopes), int(time.time())),
            )


async def _add(tx: Transaction, username: str, password_hash: str, scopes: Iterable[str]) -> User:
    user = User(new_id(), username, password_hash, " ".join(scopes))
    added = await tx.execute(
        "INSERT INTO users (id, username, username_key, password_hash, scope, created_at) VALUES ($1, $2, $3, $4, $5, $6)"
        " ON CONFLICT (username_key) DO NOTHING",
        *(user.id, username, _key(username), password_hash, user.scope, int(time.time())),
    )
    if not added:
        raise Conflict(f"the username {username} is taken", hint="choose another, or sign in")
    await tx.publish(UserRegistered(user_id=user.id, username=username))
    return user


def _faults(wanted: NewUser) -> Iterator[dict[str, str]]:
    """What a schema can't say. A password must be one that the token endpoint can be sent."""
    if not wanted.username.isprintable() or wanted.username != wanted.username.strip():
        yield {"field": "username", "detail": "begins or ends with a space, or has control characters"}
    if not is_text(wanted.password):
        yield {"field": "password", "detail": "has control characters"}


def _key(username: str) -> str:
    """One spelling per name: Unicode's compatibility forms and cases folded together."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold())
