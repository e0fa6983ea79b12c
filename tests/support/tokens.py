"""A key set and tokens signed with it: good ones, and one of every kind that must be refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from atoll.tokens import Claims, KeySet, SigningKey, sign

__all__ = ["Mint"]


@dataclass(frozen=True)
class Mint:
    """Signs tokens as auth would, with its own key. `key_set` is what gateway and services must hold to accept them.

    A test that has auth's real key (from auth's database) forges with it: `Mint(issuer, audience, key)`.
    """

    issuer: str = "http://localhost:8080/auth"
    audience: str = "shop"
    key: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def key_set(self) -> KeySet:
        return KeySet.of([self.key.public], version=1)

    def claims(self, sub: str = "user-1", scope: str = "orders:read orders:write", **changes: Any) -> Claims:
        """Good for five minutes from now, unless `changes` say otherwise."""
        now = int(time.time())
        good = {"iss": self.issuer, "aud": self.audience, "iat": now, "exp": now + 300, "jti": "token-1", "sid": "session-1"}
        return Claims(**{**good, "sub": sub, "scope": scope, **changes})

    def token(self, sub: str = "user-1", scope: str = "orders:read orders:write", **changes: Any) -> str:
        return sign(self.claims(sub, scope, **changes), self.key)

    def lasting(self, sub: str = "user-1", scope: str = "orders:read orders:write", **changes: Any) -> str:
        """Good for a day: for what is made when a module is imported, long before its test may run."""
        return self.token(sub, scope, exp=int(time.time()) + 86_400, **changes)

    # what must be refused

    def expired(self) -> str:
        now = int(time.time())
        return self.token(iat=now - 600, exp=now - 120)

    def wrong_issuer(self) -> str:
        return self.token(iss="https://elsewhere.example/auth")

    def wrong_audience(self) -> str:
        return self.token(aud="another-system")

    def unsigned(self, alg: str = "none") -> str:
        return f"{_part({'alg': alg, 'kid': self.key.kid, 'typ': 'JWT'})}.{_part(self.claims())}."

    def signed_with_the_public_key(self) -> str:
        """The HS256 confusion: the secret is the public key as PEM, which everybody has."""
        return self.hmac_signed(self.public_pem())

    def hmac_signed(self, secret: bytes) -> str:
        signed = f"{_part({'alg': 'HS256', 'kid': self.key.kid, 'typ': 'JWT'})}.{_part(self.claims())}"
        return f"{signed}.{_encode(hmac.digest(secret, signed.encode(), hashlib.sha256))}"

    def tampered(self) -> str:
        """Another's subject under this subject's signature."""
        head, _, signature = self.token().split(".")
        return f"{head}.{_part(self.claims(sub='user-2'))}.{signature}"

    def forged(self) -> str:
        """Signed with a key of the attacker's own under the good key's name."""
        stolen_name = msgspec.structs.replace(SigningKey.generate(), kid=self.key.kid)
        return sign(self.claims(), stolen_name)

    def unknown_key(self) -> str:
        return sign(self.claims(), SigningKey.generate())

    def refused(self) -> dict[str, Callable[[], str]]:
        """Every kind, by name, for `pytest.mark.parametrize` and loops."""
        return {
            "expired": self.expired,
            "wrong issuer": self.wrong_issuer,
            "wrong audience": self.wrong_audience,
            "alg none": self.unsigned,
            "alg nOnE": lambda: self.unsigned("nOnE"),
            "HS256 with the public key": self.signed_with_the_public_key,
            "tampered": self.tampered,
            "forged": self.forged,
            "unknown key": self.unknown_key,
        }

    def public_pem(self) -> bytes:
        from joserfc.jwk import ECKey

        public = msgspec.structs.asdict(self.key.public)
        return ECKey.import_key({name: public[name] for name in ("kty", "crv", "x", "y")}).as_pem(private=False)


def _part(content: Any) -> str:
    return _encode(msgspec.json.encode(content) if isinstance(content, msgspec.Struct) else json.dumps(content).encode())


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
