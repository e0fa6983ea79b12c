"""Every bad token is refused twice: by the gateway, and again by the service when somebody reaches it directly."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import httpx
import pytest

from atoll.tokens import SigningKey
from tests.support.auth import claims_of
from tests.support.system import RunningSystem, running
from tests.support.tokens import Mint
from tests.support.waiting import until_sync

SPOOFED = {"x-atoll-subject": "root", "x-atoll-scope": "vault:read vault:write"}
KINDS = list(Mint().refused())


@dataclass
class Guarded:
    """A running system, whose gateway and whose service can be asked, and a mint that has auth's own signing key."""

    system: RunningSystem
    doors: dict[str, httpx.Client]
    mint: Mint

    def token(self, user: str) -> str:
        return self.system.must("token", user).strip()

    def opened(self) -> list[str]:
        found: list[str] = self.doors["service"].get("/vault/opened").json()
        return found


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with running("guarded", tmp_path_factory.mktemp("tokens") / "guarded") as system:
        direct = f"http://127.0.0.1:{system.processes()['vault-1']['port']}"
        with httpx.Client(base_url=system.url) as gateway, httpx.Client(base_url=direct) as service:
            claims = claims_of(system.must("token", "reader").strip())
            mint = Mint(claims["iss"], claims["aud"], signing_key(system))
            yield Guarded(system, {"gateway": gateway, "service": service}, mint)


def signing_key(system: RunningSystem) -> SigningKey:
    """Auth's own, from its database: what an attacker does not have, so that each forgery is wrong in one thing only."""
    with closing(sqlite3.connect(system.folder / ".atoll" / "data" / "auth" / "auth.sqlite")) as database:
        (private_jwk,) = database.execute("SELECT private_jwk FROM signing_keys").fetchone()
    return SigningKey.parse(private_jwk)


@pytest.fixture(params=["gateway", "service"])
def door(request: pytest.FixtureRequest, guarded: Guarded) -> httpx.Client:
    """Where the request is sent."""
    return guarded.doors[request.param]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def check_refused(answer: httpx.Response, status: int) -> str:
    """The problem's code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert "the secret" not in answer.text
    return str(problem["code"])


def test_a_good_token_is_accepted(guarded: Guarded, door: httpx.Client) -> None:
    assert door.get("/vault/secret", headers=bearer(guarded.token("reader"))).json() == "the secret"
    assert door.get("/vault/secret", headers=bearer(guarded.mint.token(scope="vault:read"))).json() == "the secret"


def test_without_a_token_nobody_gets_in(guarded: Guarded, door: httpx.Client) -> None:
    check_refused(door.get("/vault/secret"), 401)
    check_refused(door.get("/vault/secret", params={"access_token": guarded.token("reader")}), 401)
    check_refused(door.get("/vault/secret", headers={"authorization": f"Basic {guarded.token('reader')}"}), 401)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_token_is_refused(guarded: Guarded, door: httpx.Client, kind: str) -> None:
    before = guarded.opened()
    token = guarded.mint.refused()[kind]()
    check_refused(door.get("/vault/secret", headers=bearer(token)), 401)
    check_refused(door.post("/vault/secret", headers=bearer(token)), 401)
    check_refused(door.get("/vault/caller", headers=bearer(token)), 401)
    assert guarded.opened() == before


def test_a_good_token_with_one_changed_character_is_refused_even_when_the_good_one_is_remembered(
    guarded: Guarded, door: httpx.Client
) -> None:
    token = guarded.token("reader")
    assert door.get("/vault/secret", headers=bearer(token)).status_code == 200
    for at in (5, len(token) // 2, len(token) - 2):
        altered = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        check_refused(door.get("/vault/secret", headers=bearer(altered)), 401)


def test_a_missing_scope_is_refused(guarded: Guarded, door: httpx.Client) -> None:
    before = guarded.opened()
    check_refused(door.get("/vault/secret", headers=bearer(guarded.token("outsider"))), 403)
    check_refused(door.post("/vault/secret", headers=bearer(guarded.token("reader"))), 403)
    for lookalike in ("vault", "vault:reader", "xvault:read", "vault:read,vault:write"):
        check_refused(door.get("/vault/secret", headers=bearer(guarded.mint.token(scope=lookalike))), 403)
    assert guarded.opened() == before


def test_spoofed_claims_open_nothing(guarded: Guarded, door: httpx.Client) -> None:
    check_refused(door.get("/vault/secret", headers=SPOOFED), 401)
    outsider = bearer(guarded.token("outsider"))
    check_refused(door.get("/vault/secret", headers={**outsider, **SPOOFED}), 403)
    caller = door.get("/vault/caller", headers={**outsider, **SPOOFED}).json()
    assert caller["id"] == claims_of(outsider["authorization"].removeprefix("Bearer "))["sub"]
    assert caller["scopes"] == []


def test_the_gateway_takes_spoofed_claims_away_and_puts_the_tokens_in_their_place(guarded: Guarded) -> None:
    gateway, token = guarded.doors["gateway"], guarded.token("reader")
    shouted = {name.upper(): value for name, value in SPOOFED.items()}
    for spoofed in (SPOOFED, shouted):
        assert gateway.get("/vault/door", headers=spoofed).json() == {}
        seen = gateway.get("/vault/caller", headers={**bearer(token), **spoofed}).json()["headers"]
        claims = claims_of(token)
        assert seen == {"x-atoll-subject": claims["sub"], "x-atoll-scope": "vault:read", "x-atoll-session": claims["sid"]}


@pytest.mark.parametrize(("name", "late_s"), [("service", 0), ("gateway", 2)])
def test_a_token_ends_at_its_second_at_the_service_and_within_two_at_the_gateway(
    guarded: Guarded, name: str, late_s: int
) -> None:
    expiry = int(time.time()) + 2
    token = guarded.mint.token(scope="vault:read", exp=expiry)
    accepted: list[float] = []  # when a request was sent that was answered well

    def refused() -> bool:
        now = time.time()
        if guarded.doors[name].get("/vault/secret", headers=bearer(token)).status_code != 200:
            return True
        accepted.append(now)
        return False

    until_sync(refused, 10)
    assert accepted
    assert accepted[-1] < expiry + late_s


def test_the_key_set_that_everybody_verifies_with_holds_nothing_private(guarded: Guarded) -> None:
    published = guarded.doors["gateway"].get("/auth/jwks").json()
    assert {key["kid"] for key in published["keys"]} > {guarded.mint.key.kid, "throwaway"}, "and the next one"
    assert guarded.mint.key.d not in json.dumps(published)
