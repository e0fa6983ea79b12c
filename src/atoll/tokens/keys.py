"""Keys: the public set that everybody verifies with (JWKS, RFC 7517) and the private ones that auth signs with.

A set is never empty: it always holds `THROWAWAY`, a public key that nobody has the private half of. Without it, withdrawing
the last key would leave a set that Envoy rejects, and a gateway that keeps its last good one would go on accepting that key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from atoll.errors import Malformed
from atoll.tokens.base64url import encoded
from atoll.tokens.files import save

__all__ = ["THROWAWAY", "KeySet", "PublicKey", "SigningKey"]


class PublicKey(msgspec.Struct, frozen=True):
    """A public JWK on P-256. It has no member for a private value, so none can slip into a published set."""

    kid: str
    x: str
    y: str
    kty: Literal["EC"] = "EC"
    crv: Literal["P-256"] = "P-256"
    alg: Literal["ES256"] = "ES256"
    use: Literal["sig"] = "sig"


# The first point whose x is SHA-256("atoll throwaway key <n>") for n = 0, 1, …: a hash, so nobody knows its private key.
THROWAWAY = PublicKey(
    kid="throwaway",
    x="mNeZqEKnm150KF4gz2Jwc24uLIN_WQsJ7Rks1UcBpsk",
    y="dFzGp-VGBQgtzmiraMBgQOWngNCtcXQcKz-KbLKx8ho",
)


class _Published(msgspec.Struct):
    keys: list[dict[str, Any]]
    version: int = 0


class KeySet(msgspec.Struct, frozen=True):
    """The keys that tokens may be signed with. `version` rises with every set that auth publishes (epoch milliseconds)."""

    keys: tuple[PublicKey, ...] = (THROWAWAY,)
    version: int = 0

    @classmethod
    def of(cls, keys: Iterable[PublicKey], version: int = 0) -> KeySet:
        """The set of `keys` and the throwaway one."""
        return cls((*(key for key in keys if key.kid != THROWAWAY.kid), THROWAWAY), version)

    @classmethod
    def parse(cls, body: bytes | str) -> KeySet:
        """The ES256 keys of a JWKS; others are left out (RFC 7517 §5). Raises Malformed."""
        try:
            published = msgspec.json.decode(body, type=_Published)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise Malformed(f"this is not a JSON Web Key Set: {error}") from error
        found = [key for entry in published.keys if (key := _usable(entry))]
        if len({key.kid for key in found}) != len(found):
            raise Malformed("two keys of this set have one kid")
        return cls.of(found, published.version)

    def serialize(self) -> bytes:
        """The set as JWKS JSON: what is published on the bus, served at /auth/jwks and given to Envoy."""
        return msgspec.json.encode({"keys": self.keys, "version": self.version}, order="deterministic")

    @property
    def by_kid(self) -> dict[str, PublicKey]:
        return {key.kid: key for key in self.keys}

    @property
    def usable(self) -> bool:
        """Whether any token could verify: False for a set that holds the throwaway key alone."""
        return any(key.kid != THROWAWAY.kid for key in self.keys)

    def update(self, received: KeySet) -> KeySet:
        """The newer of the two, so that a late snapshot does not undo a live update."""
        return received if received.version >= self.version else self

    @classmethod
    def load(cls, path: Path) -> KeySet | None:
        """The set saved at `path`; None when there is none, or none that can be read."""
        try:
            return cls.parse(path.read_bytes())
        except (OSError, Malformed):
            return None

    def save(self, path: Path) -> None:
        """Replaces the file in one step: a reader, or a start after a crash, sees the old set or the new one."""
        save(path, self.serialize())


class SigningKey(msgspec.Struct, frozen=True):
    """A private key. `repr` hides its private value; `private_jwk` is for auth's own database and nothing else."""

    kid: str
    x: str
    y: str
    d: str

    @classmethod
    def generate(cls) -> SigningKey:
        """A new P-256 key, named by its thumbprint (RFC 7638)."""
        from cryptography.hazmat.primitives.asymmetric import ec

        numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
        x, y = _encode(numbers.public_numbers.x), _encode(numbers.public_numbers.y)
        return cls(kid=_thumbprint(x, y), x=x, y=y, d=_encode(numbers.private_value))

    @classmethod
    def parse(cls, private_jwk: str) -> SigningKey:
        """The inverse of `private_jwk`. Raises Malformed."""
        try:
            return msgspec.json.decode(private_jwk, type=cls)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise Malformed(f"this is not a private key: {error}") from error

    @property
    def private_jwk(self) -> str:
        """The key as a JWK with its private value."""
        return msgspec.json.encode({**msgspec.structs.asdict(self), "kty": "EC", "crv": "P-256"}).decode()

    @property
    def public(self) -> PublicKey:
        return PublicKey(kid=self.kid, x=self.x, y=self.y)

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.kid!r}, d=***)"


def _usable(entry: dict[str, Any]) -> PublicKey | None:
    try:
        return msgspec.convert(entry, PublicKey)
    except msgspec.ValidationError:
        return None


def _encode(number: int) -> str:
    return encoded(number.to_bytes(32, "big"))


def _thumbprint(x: str, y: str) -> str:
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    return encoded(hashlib.sha256(canonical.encode()).digest())
