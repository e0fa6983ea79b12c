"""Other issuers whose tokens are taken beside auth's own: an organisation's OpenID provider.

What auth publishes of one is all that gateway and services need: who issues, for whom, with which keys, and what the words in a
token of theirs are worth here. Nobody but auth fetches anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from atoll.errors import Malformed
from atoll.tokens.base64url import decoded
from atoll.tokens.files import save
from atoll.tokens.keys import THROWAWAY

__all__ = ["ForeignKey", "Provider", "Providers", "foreign_keys"]

_SMALLEST_RSA_BYTES = 256  # 2,048 bits (RFC 7518 §3.3)

Algorithm = Literal["RS256", "ES256", "EdDSA"]


class ForeignKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """A public JWK with the one algorithm that it may be used with, so that no token's header can choose another."""

    kid: str
    kty: Literal["RSA", "EC", "OKP"]
    alg: Algorithm
    crv: str = ""
    x: str = ""
    y: str = ""
    n: str = ""
    e: str = ""


_NOBODYS = ForeignKey(THROWAWAY.kid, "EC", "ES256", "P-256", THROWAWAY.x, THROWAWAY.y)


class Provider(msgspec.Struct, frozen=True):
    """One of them. A word in `scope_claim` is worth the scopes that `grants` gives for it, and no others.

    `scope_claim` may be a path, `realm_access.roles`. `sub` gets `name` and a bar before it: two issuers' subjects never meet.
    """

    name: str
    issuer: str
    audience: str
    scope_claim: str = "scope"
    grants: Mapping[str, tuple[str, ...]] = {}
    keys: tuple[ForeignKey, ...] = ()

    @property
    def by_kid(self) -> dict[str, ForeignKey]:
        return {key.kid: key for key in self.keys}

    @property
    def never_empty(self) -> tuple[ForeignKey, ...]:
        """For Envoy, which refuses a set without keys and would go on with the last one."""
        return self.keys or (_NOBODYS,)

    def words_for(self, scope: str) -> tuple[str, ...]:
        """The words that are worth this scope."""
        return tuple(sorted(word for word, scopes in self.grants.items() if scope in scopes))

    def scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """What a token with these claims may do here. The claim is a list of words, or a text with spaces between them."""
        found: Any = claims
        for step in self.scope_claim.split("."):
            found = found.get(step) if isinstance(found, Mapping) else None
        words = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
        return frozenset(scope for word in words if isinstance(word, str) for scope in self.grants.get(word, ()))


class Providers(msgspec.Struct, frozen=True):
    """All of them. `version` rises with everything that auth publishes (epoch milliseconds)."""

    providers: tuple[Provider, ...] = ()
    version: int = 0

    @property
    def by_issuer(self) -> dict[str, Provider]:
        return {provider.issuer: provider for provider in self.providers}

    def update(self, received: Providers) -> Providers:
        """The newer of the two."""
        return received if received.version >= self.version else self

    def serialize(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def parse(cls, body: bytes) -> Providers:
        """The inverse of `serialize`. Raises Malformed."""
        try:
            return msgspec.json.decode(body, type=cls)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise Malformed(f"this is not a list of providers: {error}") from error

    @classmethod
    def load(cls, path: Path) -> Providers:
        """What was saved at `path`; none when that can't be read."""
        try:
            return cls.parse(path.read_bytes())
        except (OSError, Malformed):
            return cls()

    def save(self, path: Path) -> None:
        save(path, self.serialize())


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


def foreign_keys(jwks: bytes) -> tuple[ForeignKey, ...]:
    """The keys of a provider's JWKS that can be used; others are left out (RFC 7517 §5). Raises Malformed.

    Used are RSA from 2,048 bits for RS256, P-256 for ES256 and Ed25519 for EdDSA, named by a `kid`. Symmetric keys, other
    algorithms and keys for encryption never are.
    """
    try:
        published = msgspec.json.decode(jwks, type=_Set)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise Malformed(f"this is not a JSON Web Key Set: {error}") from error
    found = {key.kid: key for entry in published.keys if (key := _usable(entry))}
    return tuple(found[kid] for kid in sorted(found))


def _usable(entry: Mapping[str, Any]) -> ForeignKey | None:
    alg = _ALGORITHMS.get((str(entry.get("kty")), str(entry.get("crv", ""))))
    if alg is None or entry.get("alg", alg) != alg or entry.get("use", "sig") != "sig":
        return None
    names = ("kid", "kty", "crv", "x", "y", "n", "e")
    try:
        key = msgspec.convert({"alg": alg, **{name: entry[name] for name in names if name in entry}}, ForeignKey)
        return key if key.kid and key.kid != THROWAWAY.kid and _complete(key) else None
    except (msgspec.ValidationError, ValueError):
        return None


_ALGORITHMS: dict[tuple[str, str], Algorithm] = {
    ("RSA", ""): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}


def _complete(key: ForeignKey) -> bool:
    """Raises ValueError for what is no base64url."""
    sizes = {name: len(decoded(getattr(key, name))) for name in ("x", "y", "n", "e")}
    if key.kty == "RSA":
        return sizes["n"] >= _SMALLEST_RSA_BYTES and 1 <= sizes["e"] <= 8
    return sizes["x"] == 32 and (key.kty == "OKP" or sizes["y"] == 32)
