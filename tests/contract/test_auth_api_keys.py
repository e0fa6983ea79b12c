"""API keys: made, exchanged for tokens, deleted, on both kinds of database."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from atoll.tokens import TokenRefused
from tests.support.auth import RunningAuth, claims_of

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


async def make(auth: RunningAuth, client: str = "batch", **wanted: Any) -> httpx.Response:
    return await auth.http.post(f"/auth/clients/{client}/keys", json=wanted, headers=await auth.operator())


async def made(auth: RunningAuth, **wanted: Any) -> dict[str, Any]:
    answer = await make(auth, **wanted)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def exchange(auth: RunningAuth, key: str, **more: str) -> httpx.Response:
    form = {"grant_type": TOKEN_EXCHANGE, "subject_token": key, "subject_token_type": "urn:atoll:api-key"}
    return await auth.token(**{**form, **more})


async def test_a_key_is_exchanged_for_a_token_of_its_client(auth: RunningAuth) -> None:
    key = await made(auth, name="nightly import")
    assert key["key"].startswith(f"atoll_{key['id']}_"), "a prefix that scanners for secrets find"
    answer = (await exchange(auth, key["key"])).json()
    assert answer["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    assert "refresh_token" not in answer
    claims = auth.verified(answer["access_token"])
    assert (claims.sub, claims.sid, claims.scope) == ("batch", key["id"], "inventory:read inventory:write")


async def test_the_token_of_a_key_names_the_key_and_no_other_token_does(auth: RunningAuth) -> None:
    """By which the gateway counts each key apart."""
    key, other = await made(auth), await made(auth)
    tokens = [(await exchange(auth, one["key"])).json()["access_token"] for one in (key, other)]
    assert [auth.verified(token).atoll_key for token in tokens] == [key["id"], other["id"]]
    assert "atoll_key" not in claims_of((await auth.sign_in())["access_token"])


async def test_a_key_is_shown_once_and_only_its_digest_is_kept(auth: RunningAuth) -> None:
    answer = await make(auth)
    assert answer.headers["cache-control"] == "no-store"
    key = answer.json()["key"]
    listed = await auth.http.get("/auth/clients/batch/keys", headers=await auth.operator())
    assert [one["id"] for one in listed.json()] == [answer.json()["id"]]
    async with auth.database.reader() as tx:
        stored = str(await tx.all(dict, "SELECT * FROM api_keys"))
    for text in (listed.text, stored):
        assert key[-20:] not in text


async def test_a_key_has_at_most_what_its_client_has(auth: RunningAuth) -> None:
    narrow = await made(auth, scopes=["inventory:read"])
    assert (await exchange(auth, narrow["key"])).json()["scope"] == "inventory:read"
    beyond = await make(auth, scopes=["inventory:read", "auth:admin"])
    assert (beyond.status_code, beyond.json()["errors"][0]["field"]) == (422, "scopes")
    async with auth.database.transaction() as tx:
        await tx.execute("UPDATE clients SET scope = 'inventory:write' WHERE id = 'batch'")
    assert (await exchange(auth, narrow["key"])).json()["scope"] == "", "a right taken from the client is taken from its keys"


async def test_a_deleted_key_gives_no_token_and_ends_those_it_gave(auth: RunningAuth) -> None:
    key, other = await made(auth), await made(auth)
    token, others = [(await exchange(auth, one["key"])).json()["access_token"] for one in (key, other)]
    answer = await auth.http.delete(f"/auth/clients/batch/keys/{key['id']}", headers=await auth.operator())
    assert answer.json() == {"sessions": 1, "published": True}
    with pytest.raises(TokenRefused, match="the session was ended"):
        auth.verified(token)
    assert (await exchange(auth, key["key"])).json()["error"] == "invalid_grant"
    assert auth.verified(others)
    again = await auth.http.delete(f"/auth/clients/batch/keys/{key['id']}", headers=await auth.operator())
    assert again.status_code == 404


async def test_whoever_holds_a_token_of_a_key_can_not_end_the_key(auth: RunningAuth) -> None:
    key = await made(auth)
    token = (await exchange(auth, key["key"])).json()["access_token"]
    answer = await auth.http.post("/auth/revoke", data={"token": token})
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_token_type")
    auth.verified(token)
    auth.verified((await exchange(auth, key["key"])).json()["access_token"])


async def test_a_key_that_expires_gives_no_token_that_outlives_it(auth: RunningAuth) -> None:
    key = await made(auth, expires_in_s=60)
    answer = (await exchange(auth, key["key"])).json()
    assert answer["expires_in"] <= 60
    assert claims_of(answer["access_token"])["exp"] <= key["expires_at"]
    async with auth.database.transaction() as tx:
        await tx.execute("UPDATE api_keys SET expires_at = 1")
    assert (await exchange(auth, key["key"])).json()["error"] == "invalid_grant"


async def test_what_is_no_key_gets_oauths_errors(auth: RunningAuth) -> None:
    key = (await made(auth))["key"]
    for wrong in (key[:-1], key + "x", "made up", key.upper()):
        answer = await exchange(auth, wrong)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant"), wrong
    assert (await exchange(auth, "")).json()["error"] == "invalid_request"
    assert (await exchange(auth, key, subject_token_type="urn:x")).json()["error"] == "invalid_request"
    assert (await exchange(auth, key, scope="auth:admin")).json()["error"] == "invalid_scope"


async def test_keys_are_made_for_clients_there_are_by_administrators(auth: RunningAuth) -> None:
    assert (await make(auth, client="nobody")).status_code == 404
    user = {"authorization": f"Bearer {(await auth.sign_in())['access_token']}"}
    assert (await auth.http.post("/auth/clients/batch/keys", json={}, headers=user)).status_code == 403
    assert (await auth.http.get("/auth/clients/batch/keys", headers=user)).status_code == 403
    for wrong in ({"expires_in_s": 0}, {"name": 7}, {"admin": True}):
        assert (await make(auth, **wrong)).status_code == 422
