"""Signing keys come and go: rotation fails no token, withdrawal refuses one key's tokens and nobody else's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from atoll.tokens import KeySet, TokenRefused
from tests.support.auth import CONFIGURATION, RunningAuth, kid_of, running_auth
from tests.support.waiting import until


async def keys_of(auth: RunningAuth, answer: httpx.Response | None = None) -> dict[str, str]:
    """State by key id, oldest first."""
    answer = answer or await auth.http.get("/auth/keys", headers=await auth.operator())
    assert answer.status_code == 200, answer.text
    return {key["kid"]: key["state"] for key in answer.json()["keys"]}


async def rotated(auth: RunningAuth) -> httpx.Response:
    """As soon as the next key was known long enough."""

    async def answer() -> httpx.Response | None:
        found = await auth.http.post("/auth/keys/rotation", headers=await auth.operator())
        return found if found.status_code != 503 else None

    return await until(answer) or httpx.Response(503)


async def withdrawn(auth: RunningAuth, kid: str) -> httpx.Response:
    return await auth.http.delete(f"/auth/keys/{kid}", headers=await auth.operator())


async def test_the_next_key_is_published_long_before_its_turn(auth: RunningAuth) -> None:
    async def both() -> bool:
        return list((await keys_of(auth)).values()) == ["signing", "next"]

    await until(both)
    following = list(await keys_of(auth))[1]
    assert following in auth.published_sets[-1].by_kid
    assert kid_of((await auth.sign_in())["access_token"]) != following


async def test_a_rotation_signs_with_the_next_key_and_keeps_what_the_former_one_signed(auth: RunningAuth) -> None:
    before = (await auth.sign_in())["access_token"]
    answer = await rotated(auth)
    assert answer.json()["published"]
    states = await keys_of(auth, answer)
    assert list(states.values())[:2] == ["verifying", "signing"]
    after = (await auth.sign_in())["access_token"]
    assert [kid_of(before), kid_of(after)] == list(states)[:2]
    assert auth.verified(before)
    assert auth.verified(after)


async def test_a_key_that_is_not_known_long_enough_can_not_be_rotated_to(auth: RunningAuth) -> None:
    await rotated(auth)
    refused = await auth.http.post("/auth/keys/rotation", headers=await auth.operator())
    assert (refused.status_code, refused.json()["code"]) == (503, "next_key_unknown")
    assert list((await keys_of(auth)).values()).count("signing") == 1


async def test_a_withdrawn_key_is_refused_and_the_next_one_signs_in_the_same_moment(auth: RunningAuth) -> None:
    before = (await auth.sign_in())["access_token"]
    answer = await withdrawn(auth, kid_of(before))
    assert answer.json()["published"], "the bus has it when the request is answered"
    with pytest.raises(TokenRefused):
        auth.verified(before)
    after = (await auth.sign_in())["access_token"]
    assert kid_of(after) != kid_of(before)
    assert auth.verified(after)
    assert kid_of(before) not in await keys_of(auth)


async def test_refresh_tokens_outlive_a_withdrawal(auth: RunningAuth) -> None:
    granted = await auth.sign_in()
    await withdrawn(auth, kid_of(granted["access_token"]))
    assert auth.verified((await auth.refresh(granted["refresh_token"])).json()["access_token"])


async def test_withdrawing_every_key_leaves_an_auth_that_signs_with_new_ones(auth: RunningAuth) -> None:
    first = set(await keys_of(auth))
    operator = await auth.operator()
    for kid in list(first):
        assert (await auth.http.delete(f"/auth/keys/{kid}", headers=operator)).status_code in (200, 401)
        operator = await auth.operator()
    assert await auth.sign_in()
    assert first.isdisjoint(await keys_of(auth))


async def test_a_key_that_there_is_not_can_not_be_withdrawn(auth: RunningAuth) -> None:
    for kid in ("made-up", "throwaway"):
        assert (await withdrawn(auth, kid)).status_code == 404


async def test_every_change_publishes_a_newer_set(auth: RunningAuth) -> None:
    await rotated(auth)
    await withdrawn(auth, next(iter(await keys_of(auth))))
    versions = [one.version for one in auth.published_sets]
    assert versions == sorted(set(versions))


async def test_keys_are_for_administrators(auth: RunningAuth) -> None:
    user = {"authorization": f"Bearer {(await auth.sign_in())['access_token']}"}
    for method, path in (("GET", "/auth/keys"), ("POST", "/auth/keys/rotation"), ("DELETE", "/auth/keys/x")):
        assert (await auth.http.request(method, path, headers=user)).status_code == 403
        assert (await auth.http.request(method, path)).status_code == 401


async def test_what_the_bus_has_not_taken_is_said_and_done_when_it_is_back(auth_url: str) -> None:
    async with running_auth(auth_url) as auth:
        before = (await auth.sign_in())["access_token"]
        operator = await auth.operator()
        auth.broker.stop()
        answer = await auth.http.delete(f"/auth/keys/{kid_of(before)}", headers=operator)
        assert not answer.json()["published"]
        assert kid_of(before) in auth.published_sets[-1].by_kid
        auth.broker.start()
        await until(lambda: kid_of(before) not in auth.published_sets[-1].by_kid)


async def test_another_replica_never_signs_with_a_key_that_was_withdrawn(postgresql_url: str) -> None:
    async with running_auth(postgresql_url) as one, running_auth(postgresql_url, broker=one.broker, connected=False) as other:
        before = kid_of((await other.sign_in())["access_token"])
        await withdrawn(one, before)
        assert kid_of((await other.sign_in())["access_token"]) != before
        assert before not in KeySet.parse((await other.http.get("/auth/jwks")).content).by_kid


async def test_keys_rotate_by_themselves_and_leave_when_their_tokens_have_expired(tmp_path: Path) -> None:
    """With lifetimes of a second: what takes a month otherwise."""
    quick = msgspec.structs.replace(CONFIGURATION, rotate_keys_every_s=1, access_token_lifetime_s=1)
    async with running_auth(f"sqlite:///{tmp_path}/auth.sqlite", configuration=quick) as auth:
        first = next(iter(await keys_of(auth)))

        async def gone() -> bool:
            return first not in KeySet.parse((await auth.http.get("/auth/jwks")).content).by_kid

        await until(gone, 30)
        assert kid_of((await auth.sign_in())["access_token"]) != first


async def test_a_key_verifies_as_long_as_the_longest_token_that_it_signed(tmp_path: Path) -> None:
    """Tokens of an hour were signed before the manifest said a minute."""
    url = f"sqlite:///{tmp_path}/auth.sqlite"
    async with running_auth(url, configuration=msgspec.structs.replace(CONFIGURATION, access_token_lifetime_s=3600)):
        pass
    async with running_auth(url, configuration=msgspec.structs.replace(CONFIGURATION, access_token_lifetime_s=60)) as auth:
        await until(lambda: auth.published_sets)
        answer: dict[str, Any] = (await rotated(auth)).json()
        assert answer["keys"][0]["until"] > time.time() + 3500
