"""What an operator sets for auth, and the start that is refused when a secret is everybody's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from atoll.auth.configuration import Account, Configuration
from atoll.auth.service import auth
from atoll.errors import SystemMistake


def read(options: dict[str, Any] | None = None, **more: str) -> Configuration:
    variables = {"ATOLL_ISSUER": "http://localhost:8080/auth", "ATOLL_AUDIENCE": "shop", "ATOLL_MODE": "local", **more}
    return Configuration.read(variables if options is None else {"ATOLL_AUTH": json.dumps(options), **variables})


def refusal(options: dict[str, Any], **more: str) -> str:
    with pytest.raises(SystemMistake) as caught:
        read(options, **more)
    return str(caught.value)


ADA = {"password": "demo-only-ada", "scopes": ["orders:read"]}
BATCH = {"secret": "demo", "scopes": ["inventory:write"]}


def test_without_options_there_are_defaults_and_nobody() -> None:
    found = read()
    assert (found.access_token_lifetime_s, found.refresh_token_lifetime_s) == (300, 30 * 86_400)
    assert (found.default_scopes, found.users, found.clients) == ((), {}, {})


def test_users_and_clients_of_the_manifest_exist_from_the_first_start() -> None:
    found = read({"access_token_lifetime_s": 60, "users": {"ada": ADA}, "clients": {"batch": BATCH}})
    assert found.access_token_lifetime_s == 60
    assert found.users == {"ada": Account("demo-only-ada", ("orders:read",))}
    assert found.clients == {"batch": Account("demo", ("inventory:write",))}


@pytest.mark.parametrize("options", [{"lifetime": 1}, {"access_token_lifetime_s": 0}, {"users": {"ada": {"pasword": ""}}}, []])
def test_an_option_that_is_none_is_refused_with_its_place(options: Any) -> None:
    assert "[auth] can't be used" in refusal(options)


def test_two_issuers_of_one_name_are_refused() -> None:
    """A token must tell by its `iss` whose keys it is measured against."""
    provider = {"issuer": "http://localhost:8080/auth", "audience": "shop"}
    assert "two issuers are called http://localhost:8080/auth" in refusal({"providers": {"corp": provider}})


def test_the_operator_is_nobody_elses_client_and_has_a_long_secret() -> None:
    assert "atoll's own" in refusal({"clients": {"operator": BATCH}})
    assert "fewer than 32" in refusal({}, AUTH_OPERATOR_SECRET="short")
    assert read({}).operator_secret == ""


def test_issuer_and_audience_are_needed() -> None:
    assert "ATOLL_ISSUER" in refusal({}, ATOLL_ISSUER="", ATOLL_AUDIENCE="")


def test_outside_local_mode_one_message_names_every_secret_that_stands_in_the_manifest() -> None:
    text = refusal({"users": {"ada": ADA}, "clients": {"batch job": BATCH}}, ATOLL_MODE="deployed")
    for part in ("user ada", "client batch job", "AUTH_USER_ADA_PASSWORD", "AUTH_CLIENT_BATCH_JOB_SECRET"):
        assert part in text
    assert "demo" not in text, "the message shows no secret"


def test_without_a_mode_the_manifest_is_not_trusted_either() -> None:
    assert "refuses to start" in refusal({"users": {"ada": ADA}}, ATOLL_MODE="")


def test_outside_local_mode_secrets_come_from_the_environment() -> None:
    found = read({"users": {"ada": ADA}}, ATOLL_MODE="deployed", AUTH_USER_ADA_PASSWORD="a long and private one")
    assert found.users["ada"].secret == "a long and private one"


def test_a_default_from_the_manifest_does_not_become_a_secret_by_standing_in_the_environment() -> None:
    text = refusal({"users": {"ada": ADA}}, ATOLL_MODE="deployed", AUTH_USER_ADA_PASSWORD="demo-only-ada")
    assert "the one in the manifest" in text


def test_outside_local_mode_a_short_secret_is_refused() -> None:
    assert "fewer than 12" in refusal({"clients": {"b": BATCH}}, ATOLL_MODE="deployed", AUTH_CLIENT_B_SECRET="short")


def test_an_account_without_any_secret_is_refused_everywhere() -> None:
    assert "user ada has no password" in refusal({"users": {"ada": {"scopes": []}}})


def test_auth_keeps_its_data_in_sql_only() -> None:
    with pytest.raises(SystemMistake, match="mongodb"):
        auth("mongodb")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_service_object_has_the_kind_that_the_environment_names(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import atoll.auth.service as module

    monkeypatch.setenv("ATOLL_AUTH_DATABASE", kind)
    assert module.service.database == kind
    assert {operation.path for operation in module.service.operations} >= {"/auth/users", "/auth/token", "/auth/keys"}
