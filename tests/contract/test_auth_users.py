"""Registration, and who a token belongs to, on both kinds of database."""

from __future__ import annotations

import json
from typing import Any

import httpx

from atoll.delivery import envelope
from tests.support.auth import RunningAuth
from tests.support.waiting import until


async def register(auth: RunningAuth, username: Any, password: Any = "long enough", **more: Any) -> httpx.Response:
    return await auth.http.post("/auth/users", json={"username": username, "password": password, **more})


NO_USERS: list[tuple[Any, Any, list[str]]] = [
    ("marie", "7 chars", ["password"]),
    ("marie", "x" * 257, ["password"]),
    ("", "long enough", ["username"]),
    ("x" * 65, "short", ["username", "password"]),
    (" marie", "long enough", ["username"]),
    ("ma\nrie", "long enough", ["username"]),
    ("marie\0", "long enough", ["username"]),
    ("marie", "long enough\0", ["password"]),
    (" ", "line\nbreak", ["username", "password"]),
    (7, None, ["username", "password"]),
]


async def test_who_registers_can_sign_in_with_the_default_scopes(auth: RunningAuth) -> None:
    answer = await register(auth, "Marie Curie")
    assert answer.status_code == 201
    assert set(answer.json()) == {"id", "username"}
    assert answer.json()["username"] == "Marie Curie"
    granted = await auth.sign_in("Marie Curie", "long enough")
    assert granted["scope"] == "orders:read orders:write"
    assert auth.verified(granted["access_token"]).sub == answer.json()["id"]


async def test_a_registration_is_announced_under_the_users_id(auth: RunningAuth) -> None:
    user = (await register(auth, "marie")).json()

    def announced() -> list[Any]:
        return [message for message in auth.broker.messages("auth") if user["id"].encode() in message.body]

    (message,) = await until(announced)
    assert message.subject == "event.auth.user_registered.0"
    assert json.loads(message.body) == {"user_id": user["id"], "username": "marie"}
    header = envelope.decode(message.headers)
    assert (header.type, header.key) == ("auth.user_registered", user["id"])


async def test_a_name_that_is_taken_is_refused_in_every_spelling(auth: RunningAuth) -> None:
    assert (await register(auth, "strasse")).status_code == 201
    for name in ("ada", "ADA", "ａｄａ", "Straße", "STRASSE"):
        assert (await register(auth, name)).status_code == 409, name


async def test_a_refused_registration_announces_nothing(auth: RunningAuth) -> None:
    await register(auth, "ada")
    await register(auth, "marie")
    await until(lambda: any(b"marie" in message.body for message in auth.broker.messages("auth")))
    assert sum(b'"ada"' in message.body for message in auth.broker.messages("auth")) == 1, "the seeded one's"


async def test_what_cannot_be_a_user_is_refused_field_by_field(auth: RunningAuth) -> None:
    for username, password, fields in NO_USERS:
        answer = await register(auth, username, password)
        assert answer.status_code == 422
        assert [fault["field"] for fault in answer.json()["errors"]] == fields, (username, password)


async def test_text_that_is_no_unicode_is_refused(auth: RunningAuth) -> None:
    body = b'{"username": "\\ud800", "password": "\\ud800 long enough"}'
    answer = await auth.http.post("/auth/users", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)


async def test_nobody_registers_with_scopes_of_their_own_choice(auth: RunningAuth) -> None:
    assert (await register(auth, "mallory", scope="inventory:write")).status_code == 422


async def test_a_password_may_be_any_text(auth: RunningAuth) -> None:
    password = "pässwörd 🔑 with: a & = %"
    await register(auth, "marie", password)
    assert await auth.sign_in("marie", password)


async def test_passwords_are_kept_as_argon2id_only(auth: RunningAuth) -> None:
    await register(auth, "marie", "my own secret words")
    async with auth.database.reader() as tx:
        rows = await tx.all(dict, "SELECT * FROM users")
    assert "my own secret words" not in str(rows)
    assert all(row["password_hash"].startswith("$argon2id$v=19$m=19456,t=2,p=1$") for row in rows)


async def test_me_is_the_tokens_user_with_the_tokens_scopes(auth: RunningAuth) -> None:
    user = (await register(auth, "marie")).json()
    granted = await auth.sign_in("marie", "long enough", scope="orders:read")
    answer = await auth.http.get("/auth/me", headers={"authorization": f"Bearer {granted['access_token']}"})
    assert answer.json() == {"id": user["id"], "username": "marie", "scope": "orders:read"}


async def test_me_is_a_client_when_the_token_is_a_clients(auth: RunningAuth) -> None:
    granted = await auth.token(grant_type="client_credentials", client_id="batch", client_secret="its: secret")
    answer = await auth.http.get("/auth/me", headers={"authorization": f"Bearer {granted.json()['access_token']}"})
    assert (answer.json()["id"], answer.json()["username"]) == ("batch", "batch")


async def test_me_needs_a_token(auth: RunningAuth) -> None:
    assert (await auth.http.get("/auth/me")).status_code == 401
