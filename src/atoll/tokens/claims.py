"""What an access token says. Every name is registered in RFC 7519 §4.1 or RFC 9068 §2.2, except `sid` (OpenID Connect)."""

from __future__ import annotations

import msgspec

__all__ = ["Claims"]


class Claims(msgspec.Struct, frozen=True, gc=False):
    """One token's claims.

    `scope` is space-separated; `iat` and `exp` are epoch seconds; `jti` names the token, `sid` the session it belongs to.
    """

    iss: str
    aud: str
    sub: str
    scope: str
    iat: int
    exp: int
    jti: str
    sid: str

    @property
    def scopes(self) -> frozenset[str]:
        """The rights one by one."""
        return frozenset(self.scope.split())
