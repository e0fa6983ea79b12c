"""Sessions end before their tokens do: by their owner, by whoever holds a token, by an administrator, or by a stolen copy."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import httpx
import pytest

from atoll.auth.passwords import Passwords
from atoll.auth.revocations import revoke
from atoll.tokens import TokenRefused
from atoll.tokens.revocations import shard_of
from tests.support.auth import RunningAuth, claims_of, running_auth
from tests.support.waiting import until

BATCH = {"client_id": "batch", "client_secret": "its: secret"}


def bearer(granted: dict[str, Any]) -> dict[str, str]:
    return {"authorization": f"Bearer {granted['access_token']}"}


def session_of(granted: dict[str, Any]) -> str:
    return str(claims_of(granted["access_token"])["sid"])


def refused(auth: RunningAuth, granted: dict[str, Any]) -> bool:
    """Whether a service refuses the access token because its session ended. For any other reason it may not."""
    try:
        auth.verified(granted["access_token"])
    except TokenRefused as error:
        if error.code == "token_revoked":
            return True
        raise
    return False


async def user_id(auth: RunningAuth, name: str = "ada") -> str:
    answer = await auth.http.get("/auth/users", params={"username": name}, headers=await auth.operator())
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def test_who_signs_out_is_out_everywhere_and_only_there(auth: RunningAuth) -> None:
    phone, laptop = await auth.sign_in(), await auth.sign_in()
    answer = await auth.http.delete(f"/auth/sessions/{session_of(phone)}", headers=bearer(phone))
    assert answer.json() == {"sessions": 1, "published": True}
    assert refused(auth, phone)
    assert not refused(auth, laptop)
    assert (await auth.refresh(phone["refresh_token"])).status_code == 400
    assert (await auth.refresh(laptop["refresh_token"])).status_code == 200


async def test_a_session_can_be_ended_from_another_one_of_the_same_user(auth: RunningAuth) -> None:
    lost, laptop = await auth.sign_in(), await auth.sign_in()
    listed = (await auth.http.get("/auth/sessions", headers=bearer(laptop))).json()
    assert {one["id"] for one in listed} == {session_of(lost), session_of(laptop)}
    await auth.http.delete(f"/auth/sessions/{session_of(lost)}", headers=bearer(laptop))
    assert refused(auth, lost)
    assert len((await auth.http.get("/auth/sessions", headers=bearer(laptop))).json()) == 1


async def test_anothers_session_is_not_there(auth: RunningAuth) -> None:
    ada = await auth.sign_in()
    await auth.http.post("/auth/users", json={"username": "eve", "password": "long enough"})
    eve = await auth.sign_in("eve", "long enough")
    for session in (session_of(ada), "made up"):
        assert (await auth.http.delete(f"/auth/sessions/{session}", headers=bearer(eve))).status_code == 404
    assert not refused(auth, ada)
    answer = await auth.http.delete(f"/auth/sessions/{session_of(ada)}", headers=await auth.operator())
    assert answer.status_code == 200
    assert refused(auth, ada)


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_a_token_of_either_kind_ends_its_session(auth: RunningAuth, kind: str) -> None:
    granted = await auth.sign_in()
    answer = await auth.http.post("/auth/revoke", data={"token": granted[kind], "token_type_hint": "nonsense"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert refused(auth, granted)
    again = await auth.http.post("/auth/revoke", data={"token": granted[kind]})
    assert again.status_code == 200


async def test_a_token_that_is_none_ends_nothing_and_is_answered_the_same(auth: RunningAuth) -> None:
    granted = await auth.sign_in()
    head, body, _signature = granted["access_token"].split(".")
    for token in ("made up", f"{head}.{body}.{'A' * 86}", "ü"):
        assert (await auth.http.post("/auth/revoke", data={"token": token})).status_code == 200
    assert not refused(auth, granted)


async def test_what_is_no_revocation_request_gets_oauths_errors(auth: RunningAuth) -> None:
    missing = await auth.http.post("/auth/revoke", data={"token": ""})
    assert (missing.status_code, missing.json()["error"]) == (400, "invalid_request")
    wrong = await auth.http.post("/auth/revoke", data={"token": "x", "client_id": "batch", "client_secret": "no"})
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")


async def test_a_clients_refresh_token_is_ended_by_that_client_alone(auth: RunningAuth) -> None:
    granted = await auth.sign_in(**BATCH)
    await auth.http.post("/auth/revoke", data={"token": granted["refresh_token"]})
    assert not refused(auth, granted)
    await auth.http.post("/auth/revoke", data={"token": granted["refresh_token"], **BATCH})
    assert refused(auth, granted)


async def test_a_stolen_refresh_token_ends_the_access_tokens_too(auth: RunningAuth) -> None:
    granted = await auth.sign_in()
    newest = (await auth.refresh(granted["refresh_token"])).json()
    await auth.refresh(granted["refresh_token"])
    await until(lambda: refused(auth, granted) and refused(auth, newest))


async def test_all_sessions_of_a_user_end_and_the_user_may_sign_in_again(auth: RunningAuth) -> None:
    granted = [await auth.sign_in() for _ in range(3)]
    answer = await auth.http.delete(f"/auth/users/{await user_id(auth)}/sessions", headers=await auth.operator())
    assert answer.json() == {"sessions": 3, "published": True}
    assert all(refused(auth, one) for one in granted)
    assert not refused(auth, await auth.sign_in())


async def test_a_blocked_user_is_out_and_stays_out_until_unblocked(auth: RunningAuth) -> None:
    granted, operator, ada = await auth.sign_in(), await auth.operator(), await user_id(auth)
    assert (await auth.http.put(f"/auth/users/{ada}/block", headers=operator)).json()["sessions"] == 1
    assert refused(auth, granted)
    wrong = await auth.token(grant_type="password", username="ada", password="wrong")
    blocked = await auth.token(grant_type="password", username="ada", password="correct horse")
    assert wrong.json()["error_description"] == "username or password is wrong", "only who has the password is told"
    assert blocked.json() == {"error": "invalid_grant", "error_description": "the account is blocked"}
    assert (await auth.http.delete(f"/auth/users/{ada}/block", headers=operator)).status_code == 204
    assert not refused(auth, await auth.sign_in())


async def test_a_clients_tokens_end_together_and_its_next_ones_are_good(auth: RunningAuth) -> None:
    before = [(await auth.token(grant_type="client_credentials", **BATCH)).json() for _ in range(2)]
    await auth.http.delete("/auth/clients/batch/sessions", headers=await auth.operator())
    assert all(refused(auth, one) for one in before)
    assert not refused(auth, (await auth.token(grant_type="client_credentials", **BATCH)).json())


async def test_who_is_not_there_can_not_be_ended(auth: RunningAuth) -> None:
    operator = await auth.operator()
    for method, path in (
        ("DELETE", "/auth/users/nobody/sessions"),
        ("PUT", "/auth/users/nobody/block"),
        ("DELETE", "/auth/clients/nobody/sessions"),
        ("GET", "/auth/users?username=nobody"),
    ):
        assert (await auth.http.request(method, path, headers=operator)).status_code == 404, path


async def test_ending_others_is_for_administrators(auth: RunningAuth) -> None:
    user = bearer(await auth.sign_in())
    for method, path in (
        ("GET", "/auth/users?username=ada"),
        ("DELETE", "/auth/users/x/sessions"),
        ("PUT", "/auth/users/x/block"),
        ("DELETE", "/auth/clients/batch/sessions"),
    ):
        assert (await auth.http.request(method, path, headers=user)).status_code == 403, path


async def test_a_wrong_operator_is_nobody(auth: RunningAuth) -> None:
    for secret in ("", "wrong", "known to whoever runs the system, and lon"):
        answer = await auth.token(grant_type="client_credentials", client_id="operator", client_secret=secret)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_while_the_bus_is_down_a_revocation_waits_and_says_so(auth_url: str) -> None:
    async with running_auth(auth_url) as auth:
        granted, other = await auth.sign_in(), await auth.sign_in()
        auth.broker.stop()
        answer = await auth.http.delete(f"/auth/sessions/{session_of(granted)}", headers=bearer(granted))
        assert answer.json() == {"sessions": 1, "published": False}
        unsure = await auth.http.post("/auth/revoke", data={"token": other["refresh_token"]})
        assert (unsure.status_code, unsure.headers["retry-after"]) == (503, "1")
        assert not refused(auth, granted)
        auth.broker.start()
        await until(lambda: refused(auth, granted) and refused(auth, other))


async def test_the_list_holds_a_session_until_its_last_token_has_expired_and_no_longer(auth: RunningAuth) -> None:
    granted = await auth.sign_in()
    session = session_of(granted)
    await auth.http.delete(f"/auth/sessions/{session}", headers=bearer(granted))
    (shard,) = auth.published_revocations.shards.values()
    assert shard.sessions[session] > claims_of(granted["access_token"])["exp"] + 2, "the gateway takes it for two seconds more"
    neighbour = next(name for name in map(str, itertools.count()) if shard_of(name) == shard.shard)
    async with auth.database.transaction() as tx:
        await tx.execute("UPDATE revocations SET until = 1")
        await revoke(tx, [neighbour])
    await until(lambda: auth.published_revocations.sessions == {neighbour})


async def test_a_wiped_bus_gets_the_list_again(auth_url: str) -> None:
    async with running_auth(auth_url) as auth:
        granted = await auth.sign_in()
        await auth.http.delete(f"/auth/sessions/{session_of(granted)}", headers=bearer(granted))
    async with running_auth(auth_url) as again:
        await until(lambda: session_of(granted) in again.published_revocations.sessions)


async def test_an_error_of_the_list_ends_nothing(auth: RunningAuth) -> None:
    """More than the list can hold is refused as a whole: the session goes on and nobody believes otherwise."""
    granted = await auth.sign_in()
    full = shard_of(session_of(granted))
    async with auth.database.transaction() as tx:
        for number in range(1_024):
            await tx.execute(
                "INSERT INTO revocations (session_id, shard, until) VALUES ($1, $2, 9999999999)", f"s{number}", full
            )
    answer: httpx.Response = await auth.http.delete(f"/auth/sessions/{session_of(granted)}", headers=bearer(granted))
    assert (answer.status_code, answer.json()["code"]) == (503, "too_many_revocations")
    assert not refused(auth, granted)
    assert (await auth.refresh(granted["refresh_token"])).status_code == 200


async def test_who_is_blocked_while_signing_in_gets_no_session(auth: RunningAuth, monkeypatch: pytest.MonkeyPatch) -> None:
    admin, user = await auth.operator(), await user_id(auth)
    checking, go_on, verify = asyncio.Event(), asyncio.Event(), Passwords.verify

    async def held(self: Passwords, encoded: str | None, password: str) -> bool:
        """As slow as a queue of 64 passwords makes it."""
        good = await verify(self, encoded, password)
        checking.set()
        await go_on.wait()
        return good

    monkeypatch.setattr(Passwords, "verify", held)
    signing_in = asyncio.create_task(auth.token(grant_type="password", username="ada", password="correct horse"))
    await checking.wait()
    assert (await auth.http.put(f"/auth/users/{user}/block", headers=admin)).json()["published"]
    go_on.set()
    answer = await signing_in
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    async with auth.database.reader() as tx:
        assert await tx.scalar("SELECT count(*) FROM sessions WHERE user_id = $1", user) == 0
