"""Signing: what auth alone does."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from atoll.tokens.base64url import decoded, encoded
from atoll.tokens.claims import Claims
from atoll.tokens.keys import SigningKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = ["sign"]

_HALF_BYTES = 32


def sign(claims: Claims, key: SigningKey) -> str:
    """The token: a compact JWS (RFC 7515 §7.1) signed with ES256 (RFC 7518 §3.4), `kid` in its header."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    header = msgspec.json.encode({"alg": "ES256", "kid": key.kid, "typ": "JWT"})
    signed = f"{encoded(header)}.{encoded(msgspec.json.encode(claims))}"
    r, s = utils.decode_dss_signature(_private_key(key).sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{encoded(r.to_bytes(_HALF_BYTES, 'big') + s.to_bytes(_HALF_BYTES, 'big'))}"


@lru_cache(maxsize=8)
def _private_key(key: SigningKey) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    x, y, d = (int.from_bytes(decoded(part), "big") for part in (key.x, key.y, key.d))
    return ec.EllipticCurvePrivateNumbers(d, ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())).private_key()
