"""Signing: what auth alone does."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from atoll.tokens.claims import Claims
from atoll.tokens.keys import SigningKey

if TYPE_CHECKING:
    from joserfc.jwk import ECKey

__all__ = ["sign"]


def sign(claims: Claims, key: SigningKey) -> str:
    """The token: a compact JWS (RFC 7515 §7.1) signed with ES256, `kid` in its header."""
    from joserfc import jws

    header = {"alg": "ES256", "kid": key.kid, "typ": "JWT"}
    return jws.serialize_compact(header, msgspec.json.encode(claims), _imported(key), algorithms=["ES256"])


@lru_cache(maxsize=8)
def _imported(key: SigningKey) -> ECKey:
    from joserfc.jwk import ECKey

    return ECKey.import_key({"kty": "EC", "crv": "P-256", "x": key.x, "y": key.y, "d": key.d})
