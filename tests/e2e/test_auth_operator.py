"""Whoever runs the system ends keys and sessions with `atoll auth`, without a password, and refuses nobody else by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.chaos.rehearsal import CONFIRMING, Plan, rehearse
from tests.support.auth import claims_of, kid_of
from tests.support.system import RunningSystem, running
from tests.support.waiting import until_sync


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with running("guarded", tmp_path_factory.mktemp("operator") / "guarded") as system:
        yield system


@pytest.fixture(scope="module")
def doors(system: RunningSystem) -> dict[str, str]:
    return {"gateway": system.url, "service": f"http://127.0.0.1:{system.processes()['vault-1']['port']}"}


def statuses(doors: dict[str, str], token: str) -> dict[str, int]:
    headers = {"authorization": f"Bearer {token}"}
    return {door: httpx.get(f"{url}/vault/caller", headers=headers).status_code for door, url in doors.items()}


def keys(system: RunningSystem, *command: str) -> dict[str, str]:
    answer: dict[str, Any] = json.loads(system.must("auth", *command, "--json"))
    return {key["kid"]: key["state"] for key in answer["keys"]}


def test_a_key_is_rotated_and_withdrawn_by_command(system: RunningSystem, doors: dict[str, str]) -> None:
    until_sync(lambda: list(keys(system, "keys").values()) == ["signing", "next"])
    before = system.must("token", "reader").strip()
    until_sync(lambda: system.run("auth", "rotate").returncode == 0, what="a rotation")
    after = system.must("token", "reader").strip()
    assert kid_of(before) != kid_of(after)
    assert statuses(doors, before) == statuses(doors, after) == {"gateway": 200, "service": 200}

    assert kid_of(before) not in keys(system, "withdraw", kid_of(before))
    until_sync(lambda: statuses(doors, before) == {"gateway": 401, "service": 401}, what="refused at both doors")
    assert statuses(doors, after) == {"gateway": 200, "service": 200}


def test_a_session_and_a_users_sessions_end_by_command(system: RunningSystem, doors: dict[str, str]) -> None:
    one, other = (system.must("token", "reader").strip() for _ in range(2))
    assert system.must("auth", "revoke", "--session", str(claims_of(one)["sid"])) == "1 session ended\n"
    until_sync(lambda: statuses(doors, one) == {"gateway": 401, "service": 401})
    assert statuses(doors, other) == {"gateway": 200, "service": 200}
    system.must("auth", "revoke", "--user", "READER", "--block")
    until_sync(lambda: statuses(doors, other) == {"gateway": 401, "service": 401})
    assert "blocked" in system.run("token", "reader").stderr
    system.must("auth", "revoke", "--user", "reader", "--unblock")
    assert system.run("token", "reader").returncode == 0


def test_both_doors_say_the_same_of_an_ended_session(system: RunningSystem, doors: dict[str, str]) -> None:
    token = system.must("token", "reader").strip()
    system.must("auth", "revoke", "--session", str(claims_of(token)["sid"]))
    until_sync(lambda: statuses(doors, token) == {"gateway": 401, "service": 401})
    for url in doors.values():
        problem = httpx.get(f"{url}/vault/caller", headers={"authorization": f"Bearer {token}"})
        assert problem.json()["code"] == "token_revoked"
        assert "invalid_token" in problem.headers["www-authenticate"]


def test_an_api_key_opens_what_it_may_until_it_is_deleted(system: RunningSystem, doors: dict[str, str]) -> None:
    made = json.loads(system.must("auth", "make-api-key", "batch", "--name", "nightly", "--scope", "vault:write", "--json"))
    by_key = {"x-api-key": made["key"]}
    assert httpx.post(f"{doors['gateway']}/vault/secret", headers=by_key).status_code == 201
    assert httpx.get(f"{doors['gateway']}/vault/secret", headers=by_key).status_code == 403
    assert httpx.get(f"{doors['gateway']}/vault/caller", headers=by_key).json()["id"] == "batch"
    assert httpx.get(f"{doors['service']}/vault/caller", headers=by_key).status_code == 401, (
        "behind the gateway there are tokens"
    )
    listed = system.must("auth", "api-keys", "batch")
    assert made["id"] in listed
    assert made["key"] not in listed
    assert system.must("auth", "delete-api-key", "batch", made["id"]) == "deleted\n"
    until_sync(lambda: httpx.get(f"{doors['gateway']}/vault/caller", headers=by_key).status_code == 401)
    logs = system.folder / ".atoll"
    written = [path for path in logs.rglob("*.log") if made["key"] in path.read_text(errors="replace")]
    assert written == [], "no log has the key"


def test_a_mistaken_command_says_what_was_wrong(system: RunningSystem) -> None:
    for arguments, said in (
        (("revoke",), "say one of"),
        (("revoke", "--session", "x", "--block"), "go with --user"),
        (("revoke", "--user", "nobody"), "there is no user 'nobody'"),
        (("revoke", "--session", "nothing"), "there is no such session"),
        (("make-api-key", "nobody"), "there is no client 'nobody'"),
        (("make-api-key", "batch", "--scope", "vault:read"), "batch does not have vault:read"),
        (("withdraw", "made-up"), "there is no key 'made-up'"),
    ):
        done = system.run("auth", *arguments)
        assert done.returncode != 0
        assert said in done.stderr


async def test_under_load_nobody_is_refused_wrongly_and_nobody_is_accepted_late(
    system: RunningSystem,
) -> None:
    """The rehearsal in small: `make rehearsal` runs many rounds and prints the times."""
    found = await rehearse(system, Plan(rounds=1, seed=1, width=3))
    assert found.false == []
    assert found.late == []
    assert len(found.took_s) == 9, "four facts, each at both doors, and a key at the gateway"
    assert all(found.answered_s[fact] for fact in CONFIRMING.values())
