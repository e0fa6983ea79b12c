"""What an operator may set: `[auth]` in the manifest, as ATOLL_AUTH; secrets from variables of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from atoll.errors import SystemMistake

__all__ = ["ADMIN", "OPERATOR", "Account", "Configuration", "TrustedProvider"]

OPERATOR = "operator"
"""The client that is nobody's program: whoever runs the system, through `atoll auth`."""
ADMIN = "auth:admin"
"""The scope that keys, sessions of others and clients' keys are managed with."""
_SHORTEST_SECRET = 12
_SHORTEST_OPERATOR_SECRET = 32
_Seconds = Annotated[int, msgspec.Meta(ge=1)]


class Account(msgspec.Struct, frozen=True):
    """A user or client that exists from the first start. `scopes` are its rights."""

    secret: str
    scopes: tuple[str, ...]


class _Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    scopes: tuple[str, ...] = ()
    password: str = ""
    secret: str = ""


class TrustedProvider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[auth.providers.NAME]`. Without `jwks_url` and `jwks_file` the keys are found by the issuer's discovery document."""

    issuer: str
    audience: str
    jwks_url: str = ""
    jwks_file: str = ""
    scope_claim: str = "scope"
    grants: dict[str, tuple[str, ...]] = {}
    fetch_every_s: _Seconds = 300


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    access_token_lifetime_s: _Seconds = 300
    refresh_token_lifetime_s: _Seconds = 30 * 86_400
    rotate_keys_every_s: _Seconds = 30 * 86_400
    default_scopes: tuple[str, ...] = ()
    users: dict[str, _Declared] = {}
    clients: dict[str, _Declared] = {}
    providers: dict[str, TrustedProvider] = {}


class Configuration(msgspec.Struct, frozen=True):
    """Everything auth is told. `default_scopes` are what a user who registers gets; without `operator_secret` no operator."""

    issuer: str
    audience: str
    access_token_lifetime_s: int = 300
    refresh_token_lifetime_s: int = 30 * 86_400
    rotate_keys_every_s: int = 30 * 86_400
    default_scopes: tuple[str, ...] = ()
    users: Mapping[str, Account] = {}
    clients: Mapping[str, Account] = {}
    operator_secret: str = ""
    providers: Mapping[str, TrustedProvider] = {}

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Configuration:
        """Raises SystemMistake: a variable is missing or wrong or, outside local mode, a secret stands in the manifest."""
        options = _options(variables.get("ATOLL_AUTH", ""))
        if missing := [name for name in ("ATOLL_ISSUER", "ATOLL_AUDIENCE") if not variables.get(name)]:
            raise SystemMistake(f"auth needs {' and '.join(missing)}", hint="`atoll run auth` sets them")
        if OPERATOR in options.clients:
            raise SystemMistake(f"[auth.clients.{OPERATOR}]: this client is atoll's own", hint="choose another name for yours")
        secrets = _Secrets(variables)
        found = cls(
            issuer=variables["ATOLL_ISSUER"],
            audience=variables["ATOLL_AUDIENCE"],
            access_token_lifetime_s=options.access_token_lifetime_s,
            refresh_token_lifetime_s=options.refresh_token_lifetime_s,
            rotate_keys_every_s=options.rotate_keys_every_s,
            operator_secret=_operator_secret(variables),
            providers=_providers(options, variables["ATOLL_ISSUER"]),
            default_scopes=options.default_scopes,
            users={name: secrets.account("user", name, one) for name, one in options.users.items()},
            clients={name: secrets.account("client", name, one) for name, one in options.clients.items()},
        )
        secrets.check()
        return found


def _options(text: str) -> _Options:
    try:
        return msgspec.json.decode(text, type=_Options) if text else _Options()
    except (ValueError, msgspec.MsgspecError) as error:
        raise SystemMistake(
            f"[auth] can't be used: {error}", hint="docs/reference/auth.md lists what may stand there"
        ) from error


def _providers(options: _Options, own: str) -> Mapping[str, TrustedProvider]:
    issuers = [own, *(provider.issuer for provider in options.providers.values())]
    if twice := {issuer for issuer in issuers if issuers.count(issuer) > 1}:
        raise SystemMistake(
            f"[auth.providers]: two issuers are called {', '.join(sorted(twice))}",
            hint="a token must tell by its `iss` whose it is; auth's own is the gateway's public_url and /auth",
        )
    return options.providers


def _operator_secret(variables: Mapping[str, str]) -> str:
    secret = variables.get("AUTH_OPERATOR_SECRET", "")
    if 0 < len(secret) < _SHORTEST_OPERATOR_SECRET:
        raise SystemMistake(
            f"AUTH_OPERATOR_SECRET has fewer than {_SHORTEST_OPERATOR_SECRET} characters",
            hint="make one at random: `openssl rand -hex 24`",
        )
    return secret


class _Secrets:
    """Takes a secret from its variable, else from the manifest, and collects what is wrong with that."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._local = variables.get("ATOLL_MODE") == "local"
        self._faults: list[str] = []
        self._needed: list[str] = []

    def account(self, kind: str, name: str, declared: _Declared) -> Account:
        variable = variable_for(kind, name)
        own = self._variables.get(variable, "")
        secret = own or declared.password or declared.secret
        if not secret:
            self._fault(variable, f"{kind} {name} has no {_word(kind)}")
        elif not self._local and not own:
            self._fault(variable, f"{kind} {name} has its {_word(kind)} in the manifest, where everybody can read it")
        elif not self._local and own in (declared.password, declared.secret):
            self._fault(variable, f"{kind} {name} has no other {_word(kind)} than the one in the manifest")
        elif not self._local and len(own) < _SHORTEST_SECRET:
            self._fault(variable, f"{kind} {name} has a {_word(kind)} of fewer than {_SHORTEST_SECRET} characters")
        return Account(secret, declared.scopes)

    def check(self) -> None:
        if self._faults:
            raise SystemMistake(
                "auth refuses to start: " + "; ".join(self._faults),
                hint=f"set {', '.join(self._needed)} in auth's environment, or remove the entries from [auth]",
            )

    def _fault(self, variable: str, fault: str) -> None:
        self._faults.append(fault)
        self._needed.append(variable)


def variable_for(kind: str, name: str) -> str:
    """The environment variable of an account's secret: AUTH_USER_ADA_PASSWORD, AUTH_CLIENT_BATCH_SECRET."""
    plain = "".join(character if character.isalnum() and character.isascii() else "_" for character in name)
    return f"AUTH_{kind}_{plain}_{_word(kind)}".upper()


def _word(kind: str) -> str:
    return "password" if kind == "user" else "secret"
