"""Auth's signing keys: one signs only after its publication was acknowledged, and they outlive restarts."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from atoll.auth.accounts import UserRegistered
from atoll.auth.passwords import Busy, Passwords
from atoll.tokens import KeySet
from tests.support.auth import CONFIGURATION, RunningAuth, running_auth
from tests.support.waiting import until


async def test_no_token_is_signed_before_the_key_was_published(auth_url: str) -> None:
    async with running_auth(auth_url, connected=False) as auth:
        answer = await auth.token(grant_type="password", username="ada", password="correct horse")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "not_signing"
        assert "event bus" in answer.json()["hint"]
        assert auth.published_sets == []
        await auth.connect()
        assert auth.verified((await auth.sign_in())["access_token"])


async def test_everything_else_works_before_the_key_was_published(auth_url: str) -> None:
    async with running_auth(auth_url, connected=False) as auth:
        assert (await auth.http.post("/auth/users", json={"username": "m", "password": "12345678"})).status_code == 201
        assert KeySet.parse((await auth.http.get("/auth/jwks")).content).usable


async def test_a_key_that_was_published_but_not_acknowledged_does_not_sign(auth_url: str) -> None:
    async with running_auth(auth_url, connected=False) as auth:
        rows = await auth.database.journal.outbox(10)
        assert rows[0].subject == "keys.set"
        await auth.database.journal.remove_outbox(rows[1:])
        assert (await auth.token(grant_type="password", username="ada", password="correct horse")).status_code == 503
        await auth.database.journal.remove_outbox(rows[:1])
        assert await auth.sign_in()


async def test_an_outbox_too_full_to_be_looked_through_could_hide_the_publication(auth_url: str) -> None:
    async with running_auth(auth_url, connected=False) as auth:
        before = await auth.database.journal.outbox(10)
        async with auth.database.transaction() as tx:
            for number in range(256):
                await tx.publish(UserRegistered(user_id=f"{number}", username="somebody"))
        await auth.database.journal.remove_outbox(before)
        assert (await auth.token(grant_type="password", username="ada", password="correct horse")).status_code == 503
        await auth.database.journal.remove_outbox(await auth.database.journal.outbox(1))
        assert await auth.sign_in()


async def test_the_published_set_holds_the_key_and_a_throwaway_one_and_nothing_private(auth: RunningAuth) -> None:
    (message,) = auth.broker.messages("keys")
    assert message.subject == "keys.set"
    keys = KeySet.parse(message.body)
    assert len(keys.keys) == 3, "the key that signs, the next one, and the throwaway one"
    assert keys.usable
    assert b'"d"' not in message.body
    answer = await auth.http.get("/auth/jwks")
    assert answer.headers["content-type"] == "application/json"
    assert KeySet.parse(answer.content) == keys


async def test_a_restart_keeps_the_key_signs_at_once_and_publishes_the_set_again(auth_url: str) -> None:
    async with running_auth(auth_url) as auth:
        before = (await auth.sign_in())["access_token"]
        broker, first = auth.broker, auth.published_sets[-1]
    async with running_auth(auth_url, connected=False) as restarted:
        assert await restarted.sign_in(), "the key was acknowledged in its former life, so no bus is needed"
    async with running_auth(auth_url, broker=broker) as again:
        await until(lambda: len(again.published_sets) > 1)
        assert again.published_sets[-1] == first, "the same version too: a repeat is no news to anybody"
        assert again.verified(before)


async def test_a_wiped_bus_gets_the_set_again(auth_url: str) -> None:
    async with running_auth(auth_url) as auth:
        first = auth.published_sets[-1]
    async with running_auth(auth_url) as auth:
        await until(lambda: auth.published_sets)
        assert auth.published_sets[-1] == first


async def test_an_auth_that_lost_its_database_publishes_a_newer_set(tmp_path: Path) -> None:
    async with running_auth(f"sqlite:///{tmp_path}/lost.sqlite") as auth:
        lost = auth.published_sets[-1]
    async with running_auth(f"sqlite:///{tmp_path}/new.sqlite") as auth:
        new = auth.published_sets[-1]
        assert lost.update(new) is new
        assert new.update(lost) is new


async def test_two_replicas_of_a_first_start_use_one_key(postgresql_url: str) -> None:
    async with AsyncExitStack() as stack:
        starts = [running_auth(postgresql_url, connected=False) for _ in range(2)]
        replicas = await asyncio.gather(*(stack.enter_async_context(start) for start in starts))
        sets = [KeySet.parse((await replica.http.get("/auth/jwks")).content) for replica in replicas]
        assert sets[0].keys == sets[1].keys


async def test_seeds_are_made_once_and_a_changed_password_survives(auth_url: str) -> None:
    async with running_auth(auth_url) as auth, auth.database.transaction() as tx:
        await tx.execute("UPDATE users SET scope = 'inventory:write' WHERE username = 'ada'")
    async with running_auth(auth_url) as auth:
        assert (await auth.sign_in())["scope"] == "inventory:write"
        async with auth.database.reader() as tx:
            assert await tx.scalar("SELECT count(*) FROM users") == len(CONFIGURATION.users)


async def test_too_many_passwords_at_once_are_turned_away() -> None:
    passwords = Passwords(at_once=1, waiting_max=3)
    outcomes = await asyncio.gather(*(passwords.verify(None, "x") for _ in range(5)), return_exceptions=True)
    passwords.close()
    assert [isinstance(outcome, Busy) for outcome in outcomes].count(True) == 2
    assert [outcome for outcome in outcomes if not isinstance(outcome, Busy)] == [False] * 3


async def test_an_unknown_user_costs_the_work_of_a_wrong_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times would be noise on a busy machine; that argon2 does the same work cannot be."""
    from argon2 import PasswordHasher, extract_parameters

    checked: list[str] = []
    verify = PasswordHasher.verify

    def watched(self: PasswordHasher, encoded: str, password: str) -> bool:
        checked.append(encoded)
        return bool(verify(self, encoded, password))

    monkeypatch.setattr(PasswordHasher, "verify", watched)
    passwords = Passwords()
    encoded = await passwords.hash("correct horse")
    assert [await passwords.verify(one, "incorrect horse") for one in (encoded, None)] == [False, False]
    passwords.close()
    known, unknown = map(extract_parameters, checked)
    assert known == unknown
