"""Tokens: a good one is accepted, and everything else is refused for the reason it deserves."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from atoll.errors import Outage, Unauthorized
from atoll.tokens import Claims, KeySet, TokenRefused, Verifier
from tests.support.tokens import Mint

MINT = Mint()


def now() -> float:
    """Asked anew by every test: a suite may take longer than a token lives."""
    return time.time()


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.+/= é\n"


def verifier(capacity: int = 64, keys: KeySet | None = None) -> Verifier:
    return Verifier(MINT.issuer, MINT.audience, keys or MINT.key_set, capacity=capacity)


def refusal(attempt: Callable[[], Claims]) -> str:
    with pytest.raises(TokenRefused) as caught:
        attempt()
    assert caught.value.status == 401
    assert caught.value.detail
    return caught.value.code


def refused(token: str, by: Verifier | None = None, at: float | None = None) -> str:
    return refusal(partial((by or verifier()).verify, token, now() if at is None else at))


def test_a_good_token_gives_its_claims() -> None:
    claims = verifier().verify(MINT.token("ada", "orders:read orders:write"), now())
    assert (claims.sub, claims.iss, claims.aud) == ("ada", MINT.issuer, MINT.audience)
    assert claims.scopes == {"orders:read", "orders:write"}


def test_a_token_without_scopes_has_none() -> None:
    assert verifier().verify(MINT.token(scope=""), now()).scopes == frozenset()


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("expired", "token_expired"),
        ("wrong issuer", "token_issuer"),
        ("wrong audience", "token_audience"),
        ("alg none", "token_algorithm"),
        ("alg nOnE", "token_algorithm"),
        ("HS256 with the public key", "token_algorithm"),
        ("tampered", "token_signature"),
        ("forged", "token_signature"),
        ("unknown key", "token_key"),
    ],
)
def test_an_attack_is_refused_for_its_reason(kind: str, code: str) -> None:
    assert refused(MINT.refused()[kind]()) == code


def test_every_kind_of_attack_has_a_reason_of_its_own() -> None:
    assert len(MINT.refused()) == 9


@pytest.mark.parametrize("secret", ["x", "jwks", "kid"])
def test_hs256_is_refused_whatever_public_thing_it_is_signed_with(secret: str) -> None:
    public = {"x": MINT.key.x.encode(), "jwks": MINT.key_set.serialize(), "kid": MINT.key.kid.encode()}
    assert refused(MINT.hmac_signed(public[secret])) == "token_algorithm"


def test_a_signature_of_another_algorithm_is_refused_even_with_a_good_key() -> None:
    signed = MINT.token().rpartition(".")[0]
    assert refused(f"{signed}.{'A' * 43}") == "token_signature"
    assert refused(f"{signed}.") == "token_signature"
    assert refused(f"{signed}.{'A' * 86}") == "token_signature", "r = s = 0 (CVE-2022-21449)"


def test_a_token_that_demands_an_extension_is_refused() -> None:
    key = ECKey.import_key(json.loads(MINT.key.private_jwk))
    payload = b'{"sub":"ada"}'
    token = jws.serialize_compact({"alg": "ES256", "kid": MINT.key.kid}, payload, key)
    assert refused(token) == "token_claims"
    head = base64.urlsafe_b64encode(b'{"alg":"ES256","kid":"x","crit":["exp"]}').rstrip(b"=").decode()
    assert refused(".".join([head, *token.split(".")[1:]])) == "token_algorithm"


def test_json_nested_too_deep_is_refused_like_any_other_nonsense() -> None:
    deep = base64.urlsafe_b64encode(b'{"alg":"ES256","crit":' + b"[" * 2900).rstrip(b"=").decode()
    assert refused(f"{deep}.e30.e30") == "token_malformed"


@pytest.mark.parametrize("text", ["", ".", "..", "...", "a.b.c", "Bearer", "eyJ9.e30.", "é.é.é", "x" * 5000, "e30.e30.e30"])
def test_what_is_no_token_is_refused_as_such(text: str) -> None:
    assert refused(text) == "token_malformed"


@pytest.mark.parametrize(
    "claims", [b"[]", b"{}", b"null", b'{"sub":1}', b"\xff", b'{"iss":"","aud":[],"sub":"","scope":"","iat":0,"exp":9e99}']
)
def test_claims_of_the_wrong_shape_are_refused_although_the_signature_is_good(claims: bytes) -> None:
    key = ECKey.import_key(json.loads(MINT.key.private_jwk))
    assert refused(jws.serialize_compact({"alg": "ES256", "kid": MINT.key.kid}, claims, key)) == "token_claims"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_any_single_changed_character_is_refused(data: st.DataObject) -> None:
    token = TOKEN
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from(ALPHABET).filter(lambda character: character != token[at]))
    by = verifier()
    by.verify(token, now())
    refused(token[:at] + other + token[at + 1 :], by)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_any_inserted_or_removed_character_is_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(TOKEN) - 1))
    refused(TOKEN[:at] + TOKEN[at + 1 :])
    refused(TOKEN[:at] + data.draw(st.sampled_from(ALPHABET)) + TOKEN[at:])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=200))
def test_no_text_makes_the_verifier_fail_in_another_way(text: str) -> None:
    refused(text)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=80))
def test_what_joserfc_refuses_is_refused(signature: bytes) -> None:
    signed = TOKEN.rpartition(".")[0]
    token = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    with pytest.raises(JoseError):
        jws.deserialize_compact(token, ECKey.import_key(json.loads(MINT.key.private_jwk)), algorithms=["ES256"])
    assert refused(token) == "token_signature"


@settings(max_examples=30, deadline=None, derandomize=True)
@given(sub=st.text(max_size=50), scope=st.text(max_size=50), lifetime_s=st.integers(1, 10**6))
def test_what_auth_signs_reads_the_same_here_and_in_joserfc(sub: str, scope: str, lifetime_s: int) -> None:
    claims = MINT.claims(sub, scope, exp=int(now()) + 10 + lifetime_s)
    token = MINT.token(sub, scope, exp=claims.exp)
    public = ECKey.import_key({"kty": "EC", "crv": "P-256", "x": MINT.key.x, "y": MINT.key.y})
    judged = json.loads(jws.deserialize_compact(token, public, algorithms=["ES256"]).payload)
    mine = verifier().verify(token, now())
    assert (mine.sub, mine.scope, mine.exp) == (judged["sub"], judged["scope"], judged["exp"]) == (sub, scope, claims.exp)


def test_expiry_is_exact_and_checked_for_remembered_tokens_too() -> None:
    by, token = verifier(), MINT.token(exp=2_000_000_000)
    assert by.verify(token, 1_999_999_999.999).sub == "user-1"
    assert refused(token, by, 2_000_000_000.0) == "token_expired"
    assert refused(token, verifier(), 2_000_000_000.0) == "token_expired"
    assert by.verify(token, 1_999_999_999.999).sub == "user-1", "the clock is the caller's, also when it is set back"


def test_a_withdrawn_key_refuses_its_remembered_tokens_at_once() -> None:
    other = Mint()
    by = verifier(keys=KeySet.of([MINT.key.public, other.key.public]))
    mine, theirs = MINT.token(), other.token()
    by.verify(mine, now())
    by.verify(theirs, now())
    by.update(other.key_set)
    assert refused(mine, by) == "token_key"
    assert by.verify(theirs, now())


def test_a_key_replaced_under_its_name_refuses_the_old_ones_tokens() -> None:
    by, token = verifier(), MINT.token()
    by.verify(token, now())
    impostor = Mint().key.public
    by.update(KeySet.of([type(impostor)(kid=MINT.key.kid, x=impostor.x, y=impostor.y)]))
    assert refused(token, by) == "token_signature"


def test_a_key_that_arrives_later_verifies() -> None:
    by, token = verifier(keys=Mint().key_set), MINT.token()
    assert refused(token, by) == "token_key"
    by.update(MINT.key_set)
    assert by.verify(token, now())


def test_without_any_key_set_a_token_cannot_be_judged_which_is_an_outage_and_not_the_callers_mistake() -> None:
    with pytest.raises(Outage):
        verifier(keys=KeySet()).verify(MINT.token(), now())


def test_an_attack_is_refused_even_without_any_key_set() -> None:
    assert refused(MINT.unsigned(), verifier(keys=KeySet())) == "token_algorithm"


def test_the_memory_is_bounded_and_keeps_what_is_used() -> None:
    by, favourite = verifier(capacity=8), MINT.token()
    by.verify(favourite, now())
    for number in range(20):
        by.verify(MINT.token(jti=f"{number}"), now())
        assert by.verify(favourite, now())
        assert by.remembered <= 9
    assert by.remembers(favourite)


def test_a_refused_token_is_not_remembered() -> None:
    by = verifier()
    for make in MINT.refused().values():
        refused(make(), by)
    assert by.remembered == 0


def test_a_remembered_token_costs_less_than_two_microseconds() -> None:
    by, token = verifier(), MINT.token()
    by.verify(token, now())
    best = min(_seconds_for_a_thousand(by, token) for _ in range(20))
    assert best / 1000 < 2e-6


def _seconds_for_a_thousand(by: Verifier, token: str) -> float:
    begin = time.perf_counter()
    for _ in range(1000):
        by.verify(token, now())
    return time.perf_counter() - begin


def test_refusals_are_unauthorized() -> None:
    assert issubclass(TokenRefused, Unauthorized)


TOKEN = MINT.token(exp=int(time.time()) + 86_400)
