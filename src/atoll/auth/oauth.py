"""OAuth's wire format (RFC 6749): what a token request says, and how it is answered. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import unquote_plus

import msgspec

__all__ = [
    "ACCESS_TOKEN",
    "API_KEY",
    "TOKEN_EXCHANGE",
    "Credentials",
    "Granted",
    "OAuthError",
    "RevocationForm",
    "RevocationRequest",
    "TokenForm",
    "TokenRequest",
    "is_text",
    "narrowed",
    "read",
    "read_revocation",
]

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
API_KEY = "urn:atoll:api-key"
_STATUS = {"invalid_client": 401}
_NOT_TEXT = re.compile("[^\t\x20-\x7e\x80-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class OAuthError(Exception):
    """An error of RFC 6749 §5.2. `code` is one of its six, or `unsupported_token_type` of RFC 7009; `description` is for the
    client's developer.
    """

    def __init__(self, code: str, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.description = description

    @property
    def status(self) -> int:
        return _STATUS.get(self.code, 400)

    @property
    def body(self) -> dict[str, str]:
        return {"error": self.code, "error_description": self.description}


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a client names and proves itself; no secret when it only names itself."""

    id: str
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One request for a token. `scopes` None: whatever there is to have."""

    grant_type: str
    client: Credentials | None
    scopes: frozenset[str] | None
    parameters: dict[str, str] = field(repr=False)

    def required(self, name: str) -> str:
        """Raises OAuthError: a parameter without a value counts as left out (§3.2)."""
        value = self.parameters.get(name)
        if not value:
            raise OAuthError("invalid_request", f"{name} is missing")
        return value


class TokenForm(msgspec.Struct, frozen=True):
    """A token request. What must be there depends on `grant_type`; unknown parameters are ignored (§3.2)."""

    grant_type: Annotated[str, msgspec.Meta(description="password, refresh_token, client_credentials or token-exchange")] = ""
    username: str = ""
    password: str = ""
    refresh_token: str = ""
    scope: Annotated[str, msgspec.Meta(description="space-separated; without it, all there is to have")] = ""
    client_id: str = ""
    client_secret: str = ""
    subject_token: str = ""
    subject_token_type: str = ""


class RevocationForm(msgspec.Struct, frozen=True):
    """A token that shall not be used any more (RFC 7009 §2.1)."""

    token: Annotated[str, msgspec.Meta(description="a refresh token or an access token")] = ""
    token_type_hint: Annotated[str, msgspec.Meta(description="not needed: auth tells them apart")] = ""
    client_id: str = ""
    client_secret: str = ""


@dataclass(frozen=True, slots=True)
class RevocationRequest:
    """One token to end."""

    token: str = field(repr=False)
    client: Credentials | None


class Granted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token response (RFC 6749 §5.1). `expires_in` is in seconds."""

    access_token: str
    expires_in: int
    scope: str
    token_type: str
    refresh_token: str = ""
    issued_token_type: str = ""


def read(form: TokenForm, names: Sequence[str], authorization: str) -> TokenRequest:
    """What the client asks for; `names` are the form's as they came. Raises OAuthError."""
    parameters = _parameters(form, names, "grant_type")
    return TokenRequest(
        grant_type=form.grant_type,
        client=_credentials(form, authorization),
        scopes=frozenset(form.scope.split()) or None,
        parameters=parameters,
    )


def read_revocation(form: RevocationForm, names: Sequence[str], authorization: str) -> RevocationRequest:
    """What shall be ended, and who says so. Raises OAuthError."""
    _parameters(form, names, "token")
    return RevocationRequest(form.token, _credentials(form, authorization))


def _parameters(form: TokenForm | RevocationForm, names: Sequence[str], required: str) -> dict[str, str]:
    if len(set(names)) != len(names):
        raise OAuthError("invalid_request", "a parameter stands twice")
    parameters = {name: value for name, value in msgspec.structs.asdict(form).items() if value}
    if any(not is_text(value) for value in parameters.values()):
        raise OAuthError("invalid_request", "a parameter has control characters")
    if required not in parameters:
        raise OAuthError("invalid_request", f"{required} is missing")
    return parameters


def narrowed(scope: str, wanted: frozenset[str] | None) -> str:
    """Those of `scope` that are wanted, in its order; None wants all. Raises ValueError with those that are not among them."""
    if wanted is None:
        return scope
    had = scope.split()
    if beyond := wanted.difference(had):
        raise ValueError(" ".join(sorted(beyond)))
    return " ".join(one for one in had if one in wanted)


def is_text(value: str) -> bool:
    """Whether it is what RFC 6749 lets a parameter hold: UNICODECHARNOCRLF of appendix A."""
    return _NOT_TEXT.search(value) is None


def _credentials(form: TokenForm | RevocationForm, authorization: str) -> Credentials | None:
    """HTTP Basic or in the body, never both (§2.3)."""
    basic = _basic(authorization)
    if basic is not None:
        if form.client_secret or form.client_id not in ("", basic.id):
            raise OAuthError("invalid_request", "the client proves itself in two ways")
        return basic
    return Credentials(form.client_id, form.client_secret or None) if form.client_id else None


def _basic(authorization: str) -> Credentials | None:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon or not is_text(unquote_plus(client_id)):
        raise OAuthError("invalid_client", "the Authorization header is not HTTP Basic")
    return Credentials(unquote_plus(client_id), unquote_plus(secret))
