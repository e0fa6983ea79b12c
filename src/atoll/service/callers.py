"""Who calls: the token of a request or of a WebSocket's opening, and what an operation asks of it."""

from __future__ import annotations

from collections.abc import Callable

from atoll.errors import Forbidden, Refused, Unauthorized
from atoll.service.answers import Scope
from atoll.service.arguments import From
from atoll.service.operations import Operation
from atoll.service.principal import Principal

__all__ = ["TokenMissing", "TwoCredentials", "Verify", "caller", "claimed", "token_of", "without_token"]

Verify = Callable[[str], Principal]
"""Turns a token into its Principal; raises Unauthorized."""

_Headers = list[tuple[bytes, bytes]]
# A page can set no header of a WebSocket, only offer protocols: `new WebSocket(url, ["chat.v1", "bearer." + token])`.
_PROTOCOLS = b"sec-websocket-protocol"
_OFFERED = "bearer."


class TokenMissing(Unauthorized):
    """An operation that needs a token was called without one."""

    code = "token_missing"

    def __init__(self) -> None:
        super().__init__("a token is required", hint="send the header authorization: Bearer <token>")


class TwoCredentials(Refused, status=400, code="two_credentials"):
    """Send exactly one credential: Authorization, or one protocol `bearer.<token>` of a WebSocket"""


def caller(operation: Operation, scope: Scope, verify: Verify) -> Principal | None:
    """The token is verified even where none is needed, if one is there: a handler may ask who calls."""
    if operation.public and operation.one(From.PRINCIPAL) is None:
        return None
    token = token_of(scope)
    if token is None:
        if not operation.public:
            raise TokenMissing
        return None
    principal = verify(token)
    if operation.scope is not None and operation.scope not in principal.scopes:
        raise Forbidden(f"the token lacks the scope {operation.scope}", scope=operation.scope)
    return principal


def token_of(scope: Scope) -> str | None:
    """From `authorization`, or from the protocols that a WebSocket offers. Raises TwoCredentials, as the gateway does: of two
    tokens it might have read the other one.
    """
    headers: _Headers = scope["headers"]
    found = [value.decode("latin-1") for name, value in headers if name == b"authorization"]
    offered: list[str] = [one.removeprefix(_OFFERED) for one in scope.get("subprotocols", ()) if one.startswith(_OFFERED)]
    if len(found) + len(offered) > 1:
        raise TwoCredentials
    if offered:
        return offered[0]
    scheme, _, token = found[0].partition(" ") if found else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else None


def without_token(scope: Scope) -> Scope:
    """A WebSocket's, without the token among its protocols: whoever chose it would send it back."""
    kept = [one for one in scope["subprotocols"] if not one.startswith(_OFFERED)]
    if len(kept) == len(scope["subprotocols"]):
        return scope
    headers = [(name, value) for name, value in scope["headers"] if name != _PROTOCOLS]
    if kept:
        headers.append((_PROTOCOLS, ", ".join(kept).encode("latin-1")))
    return {**scope, "subprotocols": kept, "headers": headers}


def claimed(headers: _Headers, principal: Principal) -> _Headers:
    """The gateway's claim headers as this service verified them: whoever comes past the gateway may have made them up.

    WSGI reads `x_atoll_subject` as the same name.
    """
    kept = [(name, value) for name, value in headers if not name.replace(b"_", b"-").startswith(b"x-atoll-")]
    scopes = " ".join(sorted(principal.scopes))
    return [*kept, (b"x-atoll-subject", principal.id.encode()), (b"x-atoll-scope", scopes.encode())]
