"""Verifying a token of another issuer: its keys, its algorithms, its claims, and what they are worth here.

The algorithm is the key's, never the header's: a header that says another one is refused before anything is computed
(RFC 8725 §3.1). So no public key can be taken for a secret, and `none` is no algorithm.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.tokens.base64url import decoded
from atoll.tokens.claims import Claims
from atoll.tokens.providers import ForeignKey, Provider
from atoll.tokens.refusals import TokenRefused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = ["claims_of", "issuer_of"]

_HALF_BYTES = 32


class _Payload(msgspec.Struct):
    """What every token must say. Times may be fractions; `aud` may be several (RFC 7519 §4.1.3)."""

    iss: str
    sub: str
    aud: str | list[str]
    exp: float
    iat: float = 0
    nbf: float = 0
    jti: str = ""
    sid: str = ""


class _Issuer(msgspec.Struct):
    iss: str = ""


def issuer_of(payload: bytes) -> str:
    """Who a token says it is from, which nobody has checked yet; "" when it says nothing."""
    try:
        return msgspec.json.decode(payload, type=_Issuer).iss
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return ""


def claims_of(provider: Provider, key: ForeignKey, parts: tuple[bytes, bytes, bytes], now: float) -> Claims:
    """The claims as if auth had written them, from (signed, payload, signature). Raises TokenRefused."""
    signed, payload, signature = parts
    if not _fits(key, signed, signature):
        raise TokenRefused("token_signature", "the token's signature does not match: it was altered or forged")
    try:
        said = msgspec.json.decode(payload, type=_Payload)
        everything: dict[str, Any] = msgspec.json.decode(payload)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise TokenRefused("token_claims", f"the token's claims can't be used: {error}") from None
    audiences = [said.aud] if isinstance(said.aud, str) else said.aud
    if provider.audience not in audiences:
        raise TokenRefused("token_audience", f"the token of {provider.name} is for {', '.join(audiences)[:200]}")
    if now < said.nbf:
        raise TokenRefused("token_claims", "the token is not good yet (nbf)")
    return Claims(
        iss=said.iss,
        aud=provider.audience,
        sub=f"{provider.name}|{said.sub}",
        scope=" ".join(sorted(provider.scopes(everything))),
        iat=int(said.iat),
        exp=int(said.exp),
        jti=said.jti,
        sid=f"{provider.name}|{said.sid}",
    )


def _fits(key: ForeignKey, signed: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        _check(_public_key(key), signed, signature)
    except (InvalidSignature, ValueError):
        return False
    return True


def _check(key: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey, signed: bytes, signature: bytes) -> None:
    """Raises InvalidSignature, or ValueError for a signature of the wrong length."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if len(signature) != 2 * _HALF_BYTES:
            raise ValueError("the signature does not have the length that ES256 has")
        r, s = (int.from_bytes(half, "big") for half in (signature[:_HALF_BYTES], signature[_HALF_BYTES:]))
        key.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    else:
        key.verify(signature, signed)


@lru_cache(maxsize=64)
def _public_key(key: ForeignKey) -> RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey:
    """Raises ValueError for what is no point on its curve."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if key.kty == "RSA":
        return rsa.RSAPublicNumbers(_number(key.e), _number(key.n)).public_key()
    if key.kty == "EC":
        return ec.EllipticCurvePublicNumbers(_number(key.x), _number(key.y), ec.SECP256R1()).public_key()
    return ed25519.Ed25519PublicKey.from_public_bytes(decoded(key.x))


def _number(text: str) -> int:
    return int.from_bytes(decoded(text), "big")
