"""nkeys: a user of the bus who proves who it is by a signature, so that the bus's configuration holds public keys only.

A seed is what the user keeps, `SU…`, 58 characters; its public key is `U…`, 56. Both are base32 of prefix, key and CRC-16.
"""

from __future__ import annotations

import base64
import binascii
import secrets

from atoll.errors import SystemMistake

__all__ = ["is_seed", "public", "seed", "signature"]

_SEED, _USER = 18 << 3, 20 << 3
_KEY_BYTES, _SEED_CHARACTERS = 32, 58
_HINT = "make a new one; it is a secret that belongs to one user of the bus"


def is_seed(password: str) -> bool:
    """Whether that is a user's seed, and not a password that is sent."""
    return len(password) == _SEED_CHARACTERS and password.startswith("SU")


def seed(key: bytes | None = None) -> str:
    """A new one, of 256 random bits; or the one that holds these."""
    head = bytes([_SEED | _USER >> 5, (_USER & 31) << 3])
    return _encoded(head + (secrets.token_bytes(_KEY_BYTES) if key is None else key))


def public(seed: str) -> str:
    """What the bus's configuration says of that user. Raises SystemMistake for what is no seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _encoded(bytes([_USER]) + Ed25519PrivateKey.from_private_bytes(_key(seed)).public_key().public_bytes_raw())


def signature(seed: str, nonce: str) -> str:
    """What the bus wants to see for the nonce that it sent. Raises SystemMistake for what is no seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    signed = Ed25519PrivateKey.from_private_bytes(_key(seed)).sign(nonce.encode())
    return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()


def _key(seed: str) -> bytes:
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except binascii.Error:
        raw = b""
    if len(raw) != _KEY_BYTES + 4 or _checksum(raw[:-2]) != raw[-2:]:
        raise SystemMistake("a seed of the bus is damaged", hint=_HINT)
    return raw[2:-2]


def _encoded(raw: bytes) -> str:
    return base64.b32encode(raw + _checksum(raw)).rstrip(b"=").decode()


def _checksum(raw: bytes) -> bytes:
    return binascii.crc_hqx(raw, 0).to_bytes(2, "little")
