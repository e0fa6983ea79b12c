"""Registering, signing in, refreshing and a client's own token, as an ordinary HTTP client does them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.auth import claims_of
from tests.support.system import running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with running("guarded", tmp_path_factory.mktemp("auth") / "guarded") as system, system.client() as http:
        yield http


def test_a_person_registers_signs_in_and_stays_signed_in(gateway: httpx.Client) -> None:
    registered = gateway.post("/auth/users", json={"username": "marie", "password": "long enough"})
    assert registered.status_code == 201
    form = {"grant_type": "password", "username": "marie", "password": "long enough"}
    granted = gateway.post("/auth/token", data=form).json()
    again = gateway.post("/auth/token", data={"grant_type": "refresh_token", "refresh_token": granted["refresh_token"]}).json()
    for token in (granted["access_token"], again["access_token"]):
        me = gateway.get("/auth/me", headers={"authorization": f"Bearer {token}"})
        assert me.json() == {**registered.json(), "scope": ""}
        assert claims_of(token)["iss"] == str(gateway.base_url).rstrip("/") + "/auth"


def test_a_client_proves_itself_with_http_basic_and_may_do_what_it_may(gateway: httpx.Client) -> None:
    proof = httpx.BasicAuth("batch", "batch's own%3A with a colon")
    answer = gateway.post("/auth/token", data={"grant_type": "client_credentials"}, auth=proof)
    assert answer.headers["cache-control"] == "no-store"
    token = {"authorization": f"Bearer {answer.json()['access_token']}"}
    assert gateway.post("/vault/secret", headers=token).status_code == 201
    assert gateway.get("/vault/secret", headers=token).status_code == 403


def test_a_wrong_password_and_a_wrong_client_get_oauths_errors(gateway: httpx.Client) -> None:
    wrong = gateway.post("/auth/token", data={"grant_type": "password", "username": "reader", "password": "x"})
    assert (wrong.status_code, wrong.json()["error"]) == (400, "invalid_grant")
    wrong = gateway.post("/auth/token", data={"grant_type": "client_credentials"}, auth=("batch", "x"))
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    assert wrong.headers["www-authenticate"] == 'Basic realm="auth"'


def test_auths_mistakes_are_problems_like_any_others(gateway: httpx.Client) -> None:
    taken = gateway.post("/auth/users", json={"username": "READER", "password": "long enough"})
    assert (taken.status_code, taken.json()["code"]) == (409, "conflict")
    faulty = gateway.post("/auth/users", json={"username": "", "password": "short", "admin": True})
    assert faulty.status_code == 422
    assert {fault["field"] for fault in faulty.json()["errors"]} == {"username", "password", "admin"}
    assert gateway.get("/auth/token").status_code == 405
    assert gateway.get("/auth/token").headers["allow"] == "POST, OPTIONS"


def test_nobody_tries_passwords_or_registers_without_end(gateway: httpx.Client) -> None:
    tried = gateway.post("/auth/token", data={"grant_type": "password", "username": "reader", "password": "x"})
    assert (tried.status_code, tried.headers["ratelimit-limit"]) == (400, "1200")
    asked = 0
    while (answer := gateway.post("/auth/users", json={})).status_code == 422:
        asked += 1
        assert asked < 1000
    assert (answer.status_code, answer.json()["code"], answer.headers["ratelimit-limit"]) == (429, "too_many_requests", "60")
    assert asked >= 50
