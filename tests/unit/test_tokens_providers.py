"""Tokens of other issuers: good ones are taken for what they are worth here, everything else is refused for its reason."""

from __future__ import annotations

import json
import time
import warnings
from typing import Any

import pytest
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from atoll.errors import Malformed
from atoll.tokens import TokenRefused, Verifier
from atoll.tokens.providers import Providers, foreign_keys
from tests.support.foreign import ALGORITHMS, ForeignMint
from tests.support.tokens import Mint

OWN, CORP = Mint(), ForeignMint()


def verifier(*mints: ForeignMint) -> Verifier:
    made = Verifier(OWN.issuer, OWN.audience, OWN.key_set)
    made.trust(Providers(tuple(mint.provider() for mint in mints or (CORP,)), version=1))
    return made


def refused(token: str, by: Verifier | None = None) -> str:
    with pytest.raises(TokenRefused) as caught:
        (by or verifier()).verify(token, time.time())
    return caught.value.code


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_a_token_of_every_algorithm_is_taken_for_what_its_words_are_worth(alg: str) -> None:
    claims = verifier().verify(CORP.token(alg, ["writer", "unknown"]), time.time())
    assert (claims.iss, claims.sub) == (CORP.issuer, "corp|ada")
    assert claims.scopes == {"orders:read", "orders:write"}


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_no_algorithm_is_taken_for_another(alg: str) -> None:
    for name, token in CORP.confused(alg).items():
        assert refused(token) in ("token_algorithm", "token_key", "token_signature", "token_malformed"), name


def test_words_of_another_issuer_are_no_scopes() -> None:
    """Otherwise whoever writes their tokens would administer this system."""
    token = CORP.token(words=["auth:admin", "orders:write"], scope="auth:admin orders:write")
    assert verifier().verify(token, time.time()).scopes == frozenset()


@pytest.mark.parametrize("words", ["reader writer", ["reader", "writer"], ["writer", 7, None]])
def test_words_are_a_list_or_a_text(words: Any) -> None:
    assert verifier().verify(CORP.token(words=words), time.time()).scopes == {"orders:read", "orders:write"}


@pytest.mark.parametrize("words", [None, 7, {"reader": True}, "", []])
def test_other_words_are_worth_nothing(words: Any) -> None:
    assert verifier().verify(CORP.token(words=words), time.time()).scopes == frozenset()


def test_words_can_be_deeper() -> None:
    deep = ForeignMint(claim="realm_access.roles", keys=CORP.keys)
    token = CORP.token(words=None, realm_access={"roles": ["reader"]})
    assert verifier(deep).verify(token, time.time()).scopes == {"orders:read"}


def test_an_audience_among_several_is_one() -> None:
    assert verifier().verify(CORP.token(aud=["other", "api://shop"]), time.time()).aud == "api://shop"
    for wrong in ("shop", ["other"], []):
        assert refused(CORP.token(aud=wrong)) == "token_audience"


def test_times_count() -> None:
    now = int(time.time())
    assert refused(CORP.token(exp=now - 1)) == "token_expired"
    assert refused(CORP.token(nbf=now + 60)) == "token_claims"
    assert refused(CORP.token(exp=None)) == "token_claims"


def test_subjects_and_sessions_of_two_issuers_never_meet() -> None:
    own = verifier().verify(OWN.token(sub="ada", sid="1"), time.time())
    foreign = verifier().verify(CORP.token(sub="ada", sid="1"), time.time())
    assert (own.sub, foreign.sub) == ("ada", "corp|ada")
    assert (own.sid, foreign.sid) == ("1", "corp|1")


def test_a_key_is_good_for_its_issuer_alone() -> None:
    other = ForeignMint(issuer="https://other.example")
    both = verifier(CORP, other)
    assert refused(CORP.token(iss=other.issuer), both) in ("token_key", "token_signature")
    assert refused(CORP.token("ES256", iss=OWN.issuer), both) == "token_key"
    assert refused(CORP.token(iss="https://nobody.example"), both) in ("token_algorithm", "token_key")


def test_our_own_tokens_stay_es256() -> None:
    token = CORP.token("RS256", iss=OWN.issuer, aud=OWN.audience)
    assert refused(token) == "token_algorithm"


def test_a_provider_that_is_not_trusted_any_more_loses_its_remembered_tokens() -> None:
    by, token = verifier(), CORP.token()
    assert by.verify(token, time.time())
    by.trust(Providers(version=2))
    assert refused(token, by) in ("token_algorithm", "token_key", "token_issuer")
    assert by.verify(OWN.token(), time.time())


def test_a_key_that_the_provider_has_replaced_loses_its_tokens() -> None:
    mint = ForeignMint(keys=dict(CORP.keys))
    by, token = verifier(mint), mint.token()
    assert by.verify(token, time.time())
    mint.rotate("RS256", "newer")
    by.trust(Providers((mint.provider(),), version=2))
    assert refused(token, by) == "token_key"
    assert by.verify(mint.token(), time.time())


# key sets


def public(key: Any, **more: str) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": "k", **more}


def test_only_keys_that_are_safe_to_verify_with_are_used() -> None:
    rsa, ec = RSAKey.generate_key(2048), ECKey.generate_key("P-256")
    good = [public(rsa), public(rsa, alg="RS256", use="sig"), public(ec), public(OKPKey.generate_key("Ed25519"), alg="EdDSA")]
    bad = [
        public(rsa, use="enc"), public(rsa, alg="RS512"), public(rsa, alg="RSA-OAEP"), public(ec, alg="RS256"),
        public(_small_rsa()), public(ECKey.generate_key("P-384")), public(OKPKey.generate_key("X25519")),
        {**OctKey.generate_key(256).as_dict(), "kid": "k"}, {"kid": "k"}, {**public(ec), "x": "AA"}, {**public(ec), "x": "?"},
        public(ec, kid="throwaway"), public(ec, kid=""),
    ]  # fmt: skip
    for one in good:
        assert len(foreign_keys(json.dumps({"keys": [*bad, one]}).encode())) == 1, one
    assert foreign_keys(json.dumps({"keys": bad}).encode()) == ()


def _small_rsa() -> RSAKey:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        return RSAKey.generate_key(1024)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"keys": 7}', b"<html>", b"\xff"])
def test_what_is_no_key_set_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        foreign_keys(body)


def test_a_private_key_does_not_get_through() -> None:
    (key,) = foreign_keys(json.dumps({"keys": [{**CORP.keys["RS256"].as_dict(private=True), "kid": "k"}]}).encode())
    secret = CORP.keys["RS256"].as_dict(private=True)["d"]
    assert secret not in Providers((CORP.provider(keys=(key,)),)).serialize().decode()
