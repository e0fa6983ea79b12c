"""Auth's token endpoint, as RFC 6749 has it, on both kinds of database."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import pytest

from atoll.tokens import TokenRefused
from tests.support.auth import AUDIENCE, CONFIGURATION, ISSUER, RunningAuth, claims_of


def error_of(answer: httpx.Response, status: int = 400) -> str:
    """The error code of an answer that is formed as RFC 6749 §5.2 wants it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    body: dict[str, Any] = answer.json()
    assert body["error_description"]
    return str(body["error"])


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}


WRONG_REQUESTS: list[tuple[str, dict[str, str]]] = [
    ("invalid_request", {"grant_type": ""}),
    ("unsupported_grant_type", {"grant_type": "authorization_code", "code": "1"}),
    ("invalid_request", {"grant_type": "password", "username": "ada"}),
    ("invalid_request", {"grant_type": "password", "username": "", "password": "correct horse"}),
    ("invalid_scope", {"grant_type": "password", "username": "ada", "password": "correct horse", "scope": "admin"}),
    ("invalid_request", {"grant_type": "refresh_token"}),
    ("invalid_grant", {"grant_type": "refresh_token", "refresh_token": "made-up"}),
]
WRONG_FORMS = [
    b"grant_type=password&grant_type=refresh_token",
    b"grant_type=password&username=ada&password=correct+horse&scope=orders:read&scope=orders:write",
    b"grant_type=password&username=ada%00&password=correct+horse",
    b"grant_type=password&username=ada&password=correct%0ahorse",
    b"grant_type=client_credentials&client_id=%00&client_secret=x",
    b"&&&",
]


async def test_signing_in_gives_a_token_that_services_accept(auth: RunningAuth) -> None:
    answer = await auth.token(grant_type="password", username="ada", password="correct horse")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    granted = answer.json()
    assert set(granted) == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert (granted["token_type"], granted["expires_in"], granted["scope"]) == ("Bearer", 300, "orders:read orders:write")
    claims = auth.verified(granted["access_token"])
    assert (claims.iss, claims.aud, claims.scope) == (ISSUER, AUDIENCE, granted["scope"])
    assert claims.exp - claims.iat == 300
    assert claims.jti
    assert claims.sid


async def test_names_are_recognised_in_any_case(auth: RunningAuth) -> None:
    assert (
        claims_of((await auth.sign_in("ADA"))["access_token"])["sub"]
        == claims_of((await auth.sign_in())["access_token"])["sub"]
    )


async def test_a_wrong_password_and_an_unknown_user_look_the_same(auth: RunningAuth) -> None:
    wrong = await auth.token(grant_type="password", username="ada", password="incorrect horse")
    unknown = await auth.token(grant_type="password", username="nobody", password="correct horse")
    assert error_of(wrong) == "invalid_grant"
    assert wrong.json() == unknown.json()


async def test_a_wrong_request_gets_the_error_of_the_rfc(auth: RunningAuth) -> None:
    for error, form in WRONG_REQUESTS:
        assert error_of(await auth.token(**form)) == error, form


async def test_a_form_that_breaks_the_rules_is_an_invalid_request(auth: RunningAuth) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    for body in WRONG_FORMS:
        assert error_of(await auth.http.post("/auth/token", content=body, headers=headers)) == "invalid_request", body


async def test_unknown_parameters_are_ignored(auth: RunningAuth) -> None:
    assert await auth.sign_in(resource="https://elsewhere.example", audience="x")


async def test_json_is_not_what_the_token_endpoint_takes(auth: RunningAuth) -> None:
    assert (await auth.http.post("/auth/token", json={"grant_type": "password"})).status_code == 415


async def test_a_client_may_ask_for_fewer_scopes_in_any_order(auth: RunningAuth) -> None:
    assert (await auth.sign_in(scope="orders:read"))["scope"] == "orders:read"
    assert (await auth.sign_in(scope="orders:write orders:read"))["scope"] == "orders:read orders:write"


# refresh


async def test_refreshing_gives_a_new_pair_in_the_same_session(auth: RunningAuth) -> None:
    first = await auth.sign_in()
    second = (await auth.refresh(first["refresh_token"])).json()
    third = (await auth.refresh(second["refresh_token"])).json()
    assert len({first["refresh_token"], second["refresh_token"], third["refresh_token"]}) == 3
    sessions = {claims_of(granted["access_token"])["sid"] for granted in (first, second, third)}
    tokens = {claims_of(granted["access_token"])["jti"] for granted in (first, second, third)}
    assert (len(sessions), len(tokens)) == (1, 3)


async def test_a_refresh_token_that_is_used_twice_ends_its_session(auth: RunningAuth) -> None:
    stolen = (await auth.sign_in())["refresh_token"]
    other = (await auth.sign_in())["refresh_token"]
    newest = (await auth.refresh(stolen)).json()["refresh_token"]
    assert error_of(await auth.refresh(stolen)) == "invalid_grant"
    assert error_of(await auth.refresh(newest)) == "invalid_grant", "the thief may be the one who refreshed first"
    assert (await auth.refresh(other)).status_code == 200, "another session of the same user goes on"


async def test_of_two_refreshes_at_once_one_wins_and_the_session_ends(auth: RunningAuth) -> None:
    token = (await auth.sign_in())["refresh_token"]
    answers = await asyncio.gather(auth.refresh(token), auth.refresh(token))
    assert sorted(answer.status_code for answer in answers) == [200, 400]
    winner = next(answer for answer in answers if answer.status_code == 200)
    assert error_of(await auth.refresh(winner.json()["refresh_token"])) == "invalid_grant"


async def test_a_refresh_may_narrow_one_token_but_never_widen_the_session(auth: RunningAuth) -> None:
    granted = await auth.sign_in(scope="orders:read")
    assert error_of(await auth.refresh(granted["refresh_token"], scope="orders:read orders:write")) == "invalid_scope"
    again = await auth.refresh(granted["refresh_token"])
    assert again.json()["scope"] == "orders:read", "a refused request does not use the token up"


async def test_a_narrowed_refresh_leaves_the_session_as_it_was(auth: RunningAuth) -> None:
    granted = await auth.sign_in()
    narrowed = (await auth.refresh(granted["refresh_token"], scope="orders:read")).json()
    assert narrowed["scope"] == "orders:read"
    assert (await auth.refresh(narrowed["refresh_token"])).json()["scope"] == "orders:read orders:write"


async def test_a_right_that_was_taken_from_a_user_is_missing_from_the_next_refresh(auth: RunningAuth) -> None:
    granted = await auth.sign_in()
    async with auth.database.transaction() as tx:
        await tx.execute("UPDATE users SET scope = $1 WHERE username = $2", "orders:read", "ada")
    assert (await auth.refresh(granted["refresh_token"])).json()["scope"] == "orders:read"


async def test_an_expired_refresh_token_is_refused(auth: RunningAuth) -> None:
    granted = await auth.sign_in()
    async with auth.database.transaction() as tx:
        await tx.execute("UPDATE refresh_tokens SET expires_at = 1")
    assert error_of(await auth.refresh(granted["refresh_token"])) == "invalid_grant"


async def test_a_sign_in_clears_away_the_users_expired_sessions(auth: RunningAuth) -> None:
    await auth.sign_in()
    async with auth.database.transaction() as tx:
        await tx.execute("UPDATE sessions SET expires_at = 1")
    await auth.sign_in()
    async with auth.database.reader() as tx:
        assert await tx.scalar("SELECT count(*) FROM sessions") == 1
        assert await tx.scalar("SELECT count(*) FROM refresh_tokens") == 1


async def test_refresh_tokens_are_not_stored(auth: RunningAuth) -> None:
    granted = await auth.sign_in()
    async with auth.database.reader() as tx:
        rows = await tx.all(dict, "SELECT digest FROM refresh_tokens")
    assert granted["refresh_token"] not in str(rows)


# clients


async def test_a_client_gets_a_token_for_itself_and_no_refresh_token(auth: RunningAuth) -> None:
    secret = CONFIGURATION.clients["batch"].secret
    for headers, proof in ((basic("batch", "its%3A+secret"), {}), ({}, {"client_id": "batch", "client_secret": secret})):
        granted = (await auth.token(headers, grant_type="client_credentials", scope="inventory:read", **proof)).json()
        assert "refresh_token" not in granted
        claims = auth.verified(granted["access_token"])
        assert (claims.sub, claims.scope) == ("batch", "inventory:read")


async def test_a_client_that_fails_to_prove_itself_is_challenged(auth: RunningAuth) -> None:
    garbled = {"authorization": "Basic !"}, {"authorization": "Basic eA=="}
    for headers in (basic("batch", "wrong"), basic("nobody", "x"), basic("\0", "x"), *garbled):
        answer = await auth.token(headers, grant_type="client_credentials")
        assert error_of(answer, 401) == "invalid_client"
        assert answer.headers["www-authenticate"].startswith("Basic")


async def test_naming_a_client_is_not_proving_it(auth: RunningAuth) -> None:
    assert error_of(await auth.token(grant_type="client_credentials", client_id="batch"), 401) == "invalid_client"
    assert error_of(await auth.token(grant_type="client_credentials"), 401) == "invalid_client"


async def test_a_client_proves_itself_in_one_way_only(auth: RunningAuth) -> None:
    answer = await auth.token(basic("batch", "its: secret"), grant_type="client_credentials", client_secret="its: secret")
    assert error_of(answer) == "invalid_request"


async def test_a_client_cannot_ask_for_more_than_it_may(auth: RunningAuth) -> None:
    answer = await auth.token(basic("batch", "its: secret"), grant_type="client_credentials", scope="orders:write")
    assert error_of(answer) == "invalid_scope"


async def test_a_refresh_token_is_good_only_for_the_client_that_got_it(auth: RunningAuth) -> None:
    proof = {"client_id": "batch", "client_secret": "its: secret"}
    granted = await auth.sign_in(**proof)
    assert error_of(await auth.refresh(granted["refresh_token"])) == "invalid_grant"
    async with auth.database.transaction() as tx:
        await tx.execute(
            "INSERT INTO clients (id, secret_hash, scope, created_at)"
            " SELECT 'other', secret_hash, scope, created_at FROM clients"
        )
    other = {**proof, "client_id": "other"}
    assert error_of(await auth.refresh(granted["refresh_token"], **other)) == "invalid_grant"
    assert (await auth.refresh(granted["refresh_token"], **proof)).status_code == 200


async def test_a_token_that_auth_signed_and_somebody_altered_is_refused(auth: RunningAuth) -> None:
    head, body, signature = (await auth.sign_in())["access_token"].split(".")
    with pytest.raises(TokenRefused):
        auth.verified(f"{head}.{body[:-2]}{'AA' if body[-2:] != 'AA' else 'BB'}.{signature}")
