"""Verifying: what gateway-side tools and every service do with a token, about 60 µs at first sight and under 1 µs from then on.

Written on `cryptography` alone: one algorithm needs no JOSE registry, and leaving that out spares every service process
100 ms of start and 13 MB (docs/decisions/0004-own-jws.md). The tests judge it against joserfc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from atoll.errors import Outage
from atoll.tokens.base64url import decoded
from atoll.tokens.claims import Claims
from atoll.tokens.foreign import claims_of, issuer_of
from atoll.tokens.keys import KeySet, PublicKey
from atoll.tokens.providers import ForeignKey, Provider, Providers
from atoll.tokens.refusals import TokenRefused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

__all__ = ["TokenRefused", "Verifier"]

MAX_TOKEN_BYTES = 4096  # the same as the gateway's cache takes
_HALVES_BYTES = 32
_FOREIGN = "|"  # in place of a key id: no key of ours is called so
_UNREADABLE = (ValueError, RecursionError, msgspec.MsgspecError)  # bad base64 or UTF-8, JSON nested too deep, wrong shape


class _Header(msgspec.Struct):
    alg: str
    kid: str = ""
    crit: Any = None


_header = msgspec.json.Decoder(_Header)
_claims = msgspec.json.Decoder(Claims)


class Verifier:
    """Verifies tokens of one issuer for one audience, and of providers beside it; remembers the newest that it found good.

    The memory is bounded: two generations, of which the older is dropped when the younger has `capacity / 2` tokens; a token
    that is used moves to the younger one. A remembered token is as good as its key, its expiry and its session: all of them
    count on every call.
    """

    def __init__(self, issuer: str, audience: str, keys: KeySet, *, capacity: int = 4096) -> None:
        self.issuer = issuer
        self.audience = audience
        self._keys = keys
        self._revoked: frozenset[str] = frozenset()
        self._providers = Providers()
        self._half = max(1, capacity // 2)
        self._young: dict[str, tuple[Claims, str]] = {}
        self._old: dict[str, tuple[Claims, str]] = {}
        self._points: dict[str, EllipticCurvePublicKey] = {}

    @property
    def keys(self) -> KeySet:
        return self._keys

    @property
    def remembered(self) -> int:
        """How many tokens are remembered: at most `capacity` and one."""
        return len(self._young) + len(self._old.keys() - self._young.keys())

    def remembers(self, token: str) -> bool:
        return token in self._young or token in self._old

    def update(self, keys: KeySet) -> None:
        """Verify with `keys` from now on. Tokens of a key that is gone or changed are refused by the very next call."""
        before, after = self._keys.by_kid, keys.by_kid
        kept = {kid for kid in before if after.get(kid) == before[kid]} | {_FOREIGN}
        self._keys = keys
        self._young = {token: entry for token, entry in self._young.items() if entry[1] in kept}
        self._old = {token: entry for token, entry in self._old.items() if entry[1] in kept}
        self._points = {kid: point for kid, point in self._points.items() if kid in kept}

    def refuse(self, sessions: frozenset[str]) -> None:
        """From now on, tokens of these sessions are refused, and of no others: whoever was refused before is taken again."""
        self._revoked = sessions

    @property
    def providers(self) -> Providers:
        return self._providers

    def trust(self, providers: Providers) -> None:
        """Take the tokens of these issuers too, and of no others. What was remembered of any is verified anew."""
        foreign = {issuer for known in (self._providers, providers) for issuer in known.by_issuer}
        self._providers = providers
        self._young = {token: entry for token, entry in self._young.items() if entry[0].iss not in foreign}
        self._old = {token: entry for token, entry in self._old.items() if entry[0].iss not in foreign}

    def verify(self, token: str, now: float) -> Claims:
        """The claims of a token that is good at `now` (epoch seconds). `exp` is exact: at that moment it is refused.

        Raises TokenRefused (401), or Outage (503) while no key set has arrived, when no token can be judged.
        """
        entry = self._young.get(token)
        if entry is None:
            entry = self._old.get(token) or self._verified(token, now)
            self._remember(token, entry)
        claims = entry[0]
        if now >= claims.exp:
            self._young.pop(token, None)
            raise TokenRefused("token_expired", "the token has expired", hint="get a new one with the refresh token")
        if claims.sid in self._revoked:
            raise TokenRefused("token_revoked", "the session was ended", hint="sign in again")
        return claims

    def _remember(self, token: str, entry: tuple[Claims, str]) -> None:
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[token] = entry

    def _verified(self, token: str, now: float) -> tuple[Claims, str]:
        signed, payload, header, signature = self._taken_apart(token)
        issuer = issuer_of(payload) if self._providers.providers else self.issuer
        if issuer != self.issuer and (provider := self._providers.by_issuer.get(issuer)):
            return claims_of(provider, _key_of(provider, header), (signed, payload, signature), now), _FOREIGN
        kid = header.kid
        if header.alg != "ES256":
            raise TokenRefused("token_algorithm", f"the token says alg {header.alg[:20]!r}; only ES256 is accepted")
        _check_signature(self._point(kid), signature, signed)
        try:
            claims = _claims.decode(payload)
        except _UNREADABLE as error:
            raise TokenRefused("token_claims", f"the token's claims are not what auth writes: {error}") from None
        if claims.iss != self.issuer:
            raise TokenRefused("token_issuer", f"the token was issued by {claims.iss}, not by {self.issuer}")
        if claims.aud != self.audience:
            raise TokenRefused("token_audience", f"the token is for {claims.aud}, not for {self.audience}")
        return claims, kid

    def _taken_apart(self, token: str) -> tuple[bytes, bytes, _Header, bytes]:
        """(what was signed, payload, header, signature), after every check that needs no key."""
        if len(token) > MAX_TOKEN_BYTES or not token.isascii() or token.count(".") != 2:
            raise _malformed("it is not three parts of base64url with dots between them")
        head, body, tail = token.split(".")
        try:
            header = _header.decode(decoded(head))
            payload, signature = decoded(body), decoded(tail)
        except _UNREADABLE as error:
            raise _malformed(str(error)) from None
        if header.crit is not None:
            raise TokenRefused("token_algorithm", "the token demands an extension (crit); none is known here")
        return token.rpartition(".")[0].encode(), payload, header, signature

    def _point(self, kid: str) -> EllipticCurvePublicKey:
        point = self._points.get(kid)
        if point is None:
            key = self._keys.by_kid.get(kid)
            if key is None:
                raise self._unknown(kid)
            point = self._points[kid] = _public_key(key)
        return point

    def _unknown(self, kid: str) -> Exception:
        if not self._keys.usable:
            return Outage("no key set has arrived yet, so no token can be verified", hint="auth publishes it when it starts")
        return TokenRefused(
            "token_key", f"the token was signed with key {kid[:64]!r}, which auth does not vouch for", hint="sign in again"
        )


def _key_of(provider: Provider, header: _Header) -> ForeignKey:
    key = provider.by_kid.get(header.kid)
    if key is None:
        raise TokenRefused(
            "token_key", f"the token was signed with key {header.kid[:64]!r}, which {provider.name} does not publish"
        )
    if header.alg != key.alg:
        raise TokenRefused(
            "token_algorithm", f"the token says alg {header.alg[:20]!r}; this key of {provider.name} is for {key.alg}"
        )
    return key


def _malformed(reason: str) -> TokenRefused:
    return TokenRefused("token_malformed", f"this is not a JSON Web Token: {reason}")


def _public_key(key: PublicKey) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        x, y = (int.from_bytes(decoded(part), "big") for part in (key.x, key.y))
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError:
        raise TokenRefused("token_key", f"key {key.kid!r} of the set is not a point on P-256") from None


def _check_signature(key: EllipticCurvePublicKey, signature: bytes, signed: bytes) -> None:
    """ES256 (RFC 7518 §3.4): the signature is r and s, 32 bytes each."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    if len(signature) != 2 * _HALVES_BYTES:
        raise TokenRefused("token_signature", "the token's signature does not have the length that ES256 has")
    r, s = (int.from_bytes(half, "big") for half in (signature[:_HALVES_BYTES], signature[_HALVES_BYTES:]))
    try:
        key.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise TokenRefused("token_signature", "the token's signature does not match: it was altered or forged") from None
