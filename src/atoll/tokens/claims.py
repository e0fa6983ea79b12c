"""What an access token says. Every name is registered in RFC 7519 §4.1 or RFC 9068 §2.2, except `sid` (OpenID Connect) and
`atoll_key`, our own.
"""

from __future__ import annotations

import msgspec

__all__ = ["Claims"]


class Claims(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One token's claims.

    `scope` is space-separated; `iat` and `exp` are epoch seconds; `jti` names the token, `sid` the session it belongs to.
    `atoll_key` is the id of the API key that it was given for, "" for none: then it is not in the token.
    """

    iss: str
    aud: str
    sub: str
    scope: str
    iat: int
    exp: int
    jti: str
    sid: str
    atoll_key: str = ""

    @property
    def scopes(self) -> frozenset[str]:
        """The rights one by one."""
        return frozenset(self.scope.split())
