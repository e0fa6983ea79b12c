"""OAuth's wire format (RFC 6749): what a token request says, and how it is answered. Pure."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_plus

import msgspec

__all__ = ["Credentials", "Granted", "OAuthError", "TokenRequest", "read"]

_FORM = "application/x-www-form-urlencoded"
_PARAMETERS_MAX = 20
_STATUS = {"invalid_client": 401}


class OAuthError(Exception):
    """An error of RFC 6749 §5.2. `code` is one of its six; `description` is for the client's developer."""

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


class Granted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token response (RFC 6749 §5.1). `expires_in` is in seconds."""

    access_token: str
    expires_in: int
    scope: str
    token_type: str
    refresh_token: str = ""


def read(content_type: str, authorization: str, body: bytes) -> TokenRequest:
    """What the client asks for. Raises OAuthError."""
    if content_type.partition(";")[0].strip().lower() != _FORM:
        raise OAuthError("invalid_request", f"the body must be {_FORM}")
    parameters = _parameters(body)
    grant_type = parameters.get("grant_type")
    if not grant_type:
        raise OAuthError("invalid_request", "grant_type is missing")
    scope = parameters.get("scope")
    return TokenRequest(
        grant_type=grant_type,
        client=_credentials(authorization, parameters),
        scopes=frozenset(scope.split()) if scope else None,
        parameters=parameters,
    )


def _parameters(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_PARAMETERS_MAX)
    except ValueError as error:
        raise OAuthError("invalid_request", "the body is not a form in UTF-8") from error
    found = dict(pairs)
    if len(found) != len(pairs):
        raise OAuthError("invalid_request", "a parameter stands twice")
    return found


def _credentials(authorization: str, parameters: dict[str, str]) -> Credentials | None:
    """HTTP Basic or in the body, never both (§2.3)."""
    basic = _basic(authorization)
    client_id, secret = parameters.get("client_id"), parameters.get("client_secret")
    if basic is not None:
        if secret is not None or client_id not in (None, basic.id):
            raise OAuthError("invalid_request", "the client proves itself in two ways")
        return basic
    return Credentials(client_id, secret) if client_id else None


def _basic(authorization: str) -> Credentials | None:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        raise OAuthError("invalid_client", "the Authorization header is not HTTP Basic")
    return Credentials(unquote_plus(client_id), unquote_plus(secret))
