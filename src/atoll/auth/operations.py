"""Auth's operations, and what they are given."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Annotated, cast

import msgspec
from starlette.requests import Request

from atoll.auth import accounts, oauth
from atoll.auth.accounts import Accounts, NewUser
from atoll.auth.answers import UNCACHED, answer, refusal
from atoll.auth.api_keys import ApiKeys
from atoll.auth.configuration import Configuration
from atoll.auth.grants import Grants
from atoll.auth.oauth import Granted, OAuthError, TokenForm
from atoll.auth.passwords import Busy, Passwords
from atoll.auth.providers import ProviderKeys
from atoll.auth.revocations import RevocationList
from atoll.auth.sessions import Sessions
from atoll.auth.signing import KeysPublished, NotSigning, Signing
from atoll.database.ports import Database
from atoll.errors import Conflict, Unauthorized
from atoll.service.parameters import Form
from atoll.service.principal import Principal
from atoll.service.router import Router
from atoll.system.variables import with_files

__all__ = ["operations"]

_FORM_LIMIT_BYTES = 16_384
# Each address's. What hashing passwords can bear: a web shop that signs its customers in comes from one address, too.
_SIGN_INS, _REGISTRATIONS = "1200/min", "60/min"

operations = Router("/auth")


class Registered(msgspec.Struct, frozen=True):
    """A user as everybody may see it."""

    id: str
    username: str


class Me(msgspec.Struct, frozen=True):
    """Whose token it is, and the scopes that the token carries."""

    id: str
    username: str
    scope: str


class Discovery(msgspec.Struct, frozen=True):
    """What auth is and can. There is no authorization endpoint and no ID token: the lists say so by being empty or short."""

    issuer: str
    jwks_uri: str
    token_endpoint: str
    revocation_endpoint: str
    response_types_supported: tuple[str, ...] = ()
    subject_types_supported: tuple[str, ...] = ("public",)
    id_token_signing_alg_values_supported: tuple[str, ...] = ("ES256",)
    grant_types_supported: tuple[str, ...] = ("password", "refresh_token", "client_credentials", oauth.TOKEN_EXCHANGE)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic", "client_secret_post")
    revocation_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic", "client_secret_post", "none")


@operations.post("/users", public=True, raises=[Conflict, Busy], rate_limit=_REGISTRATIONS)
async def register(user: NewUser, known: Accounts) -> Registered:
    """Registers a user, who gets the default scopes."""
    made = await known.register(user)
    return Registered(made.id, made.username)


@operations.post(
    "/token",
    public=True,
    status=200,
    body_limit_bytes=_FORM_LIMIT_BYTES,
    raises=[NotSigning, Busy],
    rate_limit=_SIGN_INS,
)
async def token(form: Annotated[TokenForm, Form()], request: Request, grants: Grants) -> Granted:
    """Signs in, refreshes, gives a client its token (RFC 6749), or one for an API key (RFC 8693).

    `grant_type` is `password` (`username`, `password`), `refresh_token` (`refresh_token`), `client_credentials` (HTTP Basic,
    or `client_id` and `client_secret`) or `urn:ietf:params:oauth:grant-type:token-exchange` (`subject_token`, an API key, and
    `subject_token_type`, `urn:atoll:api-key`); `scope` narrows what the token may do. Errors are those of RFC 6749 §5.2.
    """
    names = [name for name, _ in (await request.form()).multi_items()]
    try:
        granted = await grants.grant(oauth.read(form, names, request.headers.get("authorization", "")))
    except OAuthError as error:
        return cast(Granted, refusal(error))  # a Response is sent as it is, and the contract says what usually comes
    return cast(Granted, answer(granted, UNCACHED))


@operations.get("/jwks", public=True)
async def jwks(signing: Signing) -> KeysPublished:
    """The public keys that tokens are verified with (RFC 7517)."""
    keys = await signing.key_set()
    published = KeysPublished(keys=list(keys.keys), version=keys.version)
    return cast(KeysPublished, answer(published, {"cache-control": "public, max-age=60"}))


@operations.get("/.well-known/openid-configuration", public=True, id="discovery")
async def discovery(configuration: Configuration) -> Discovery:
    """Where everything is, for libraries that know how to ask (OpenID Connect Discovery 1.0 §4, RFC 8414 §2)."""
    issuer = configuration.issuer
    found = Discovery(issuer, f"{issuer}/jwks", f"{issuer}/token", f"{issuer}/revoke")
    return cast(Discovery, answer(found, {"cache-control": "public, max-age=300"}))


@operations.get("/me")
async def me(caller: Principal, database: Database) -> Me:
    """Whose token this is."""
    scope = " ".join(sorted(caller.scopes))
    async with database.reader() as tx:
        if user := await accounts.user_of_id(tx, caller.id):
            return Me(user.id, user.username, scope)
        if client := await accounts.client(tx, caller.id):
            return Me(client.id, client.id, scope)
    raise Unauthorized("the token's user does not exist any more", hint="sign in again")


@operations.provides()
def configured() -> Configuration:
    return Configuration.read(with_files(os.environ))


@operations.provides()
async def hashing() -> AsyncIterator[Passwords]:
    passwords = Passwords()
    yield passwords
    passwords.close()


@operations.provides()
async def keys(database: Database, configuration: Configuration) -> AsyncIterator[Signing]:
    signing = Signing(database, configuration)
    await signing.start()
    yield signing
    await signing.close()


@operations.provides()
async def revoking(database: Database) -> AsyncIterator[RevocationList]:
    revocations = RevocationList(database)
    await revocations.start()
    yield revocations
    await revocations.close()


@operations.provides()
async def trusting(database: Database, configuration: Configuration) -> AsyncIterator[ProviderKeys]:
    providers = ProviderKeys(database, configuration)
    await providers.start()
    yield providers
    await providers.close()


@operations.provides()
def ending(database: Database, configuration: Configuration, signing: Signing, revocations: RevocationList) -> Sessions:
    return Sessions(database, configuration, signing, revocations)


@operations.provides()
def handing(database: Database, revocations: RevocationList) -> ApiKeys:
    return ApiKeys(database, revocations)


@operations.provides()
def knowing(database: Database, configuration: Configuration, passwords: Passwords) -> Accounts:
    return Accounts(database, configuration, passwords)


@operations.provides()
def granting(database: Database, configuration: Configuration, passwords: Passwords, signing: Signing) -> Grants:
    return Grants(database, configuration, passwords, signing)


@operations.on_start
async def seed(known: Accounts) -> None:
    """The users and clients that the configuration names exist from the first start."""
    await known.seed()
