"""One system, two issuers: our own is called the same inside and outside, another one's tokens work beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.support.auth import claims_of
from tests.support.foreign import IssuerServer, issuer_server
from tests.support.ports import free_port
from tests.support.system import RunningSystem, system
from tests.support.waiting import until_sync


@dataclass
class World:
    system: RunningSystem
    corp: IssuerServer

    @property
    def doors(self) -> dict[str, str]:
        return {"gateway": self.system.url, "service": f"http://127.0.0.1:{self.system.processes()['vault-1']['port']}"}

    def statuses(self, token: str, method: str = "GET") -> dict[str, int]:
        headers = {"authorization": f"Bearer {token}"}
        return {
            door: httpx.request(method, f"{url}/vault/secret", headers=headers).status_code for door, url in self.doors.items()
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("issuers") / "guarded"
    with issuer_server(free_port()) as corp, system("guarded", folder) as made:
        with (folder / "atoll.toml").open("a") as manifest:
            manifest.write(
                f'\n[auth.providers.corp]\nissuer = "{corp.url}"\naudience = "api://shop"\nscope_claim = "roles"\n'
                'fetch_every_s = 1\n[auth.providers.corp.grants]\nreader = ["vault:read"]\n'
            )
        made.up()
        yield World(made, corp)


def test_the_issuer_is_one_string_inside_and_outside(world: World) -> None:
    token = world.system.must("token", "reader").strip()
    inside = f"http://127.0.0.1:{world.system.processes()['auth-1']['port']}"
    path = "/auth/.well-known/openid-configuration"
    named = {
        "the gateway's URL": f"{world.system.url}/auth",
        "a token": claims_of(token)["iss"],
        "discovery outside": httpx.get(world.system.url + path).json()["issuer"],
        "discovery inside": httpx.get(inside + path).json()["issuer"],
        "a service": json.loads(world.system.must("env", "vault", "--json"))["ATOLL_ISSUER"],
    }
    assert len(set(named.values())) == 1, named


def test_a_library_finds_the_keys_by_the_issuer_of_a_token(world: World) -> None:
    """What any program outside does with a token of ours, with a library that is not ours."""
    token = world.system.must("token", "reader").strip()
    found = httpx.get(f"{claims_of(token)['iss']}/.well-known/openid-configuration").json()
    keys = KeySet.import_key_set(httpx.get(found["jwks_uri"]).json())
    assert jwt.decode(token, keys, algorithms=found["id_token_signing_alg_values_supported"]).claims["aud"] == "guarded"
    granted = httpx.post(
        found["token_endpoint"], data={"grant_type": "password", "username": "reader", "password": "reader's own"}
    )
    ended = httpx.post(found["revocation_endpoint"], data={"token": granted.json()["refresh_token"]})
    assert (granted.status_code, ended.status_code) == (200, 200)


def test_another_issuers_token_is_good_at_both_doors_and_only_for_what_it_is_worth(world: World) -> None:
    token = world.corp.mint.token("RS256", ["reader"])
    until_sync(lambda: world.statuses(token) == {"gateway": 200, "service": 200}, what="corp's keys are known everywhere")
    assert world.statuses(token, "POST") == {"gateway": 403, "service": 403}
    own = world.system.must("token", "reader").strip()
    assert world.statuses(own) == {"gateway": 200, "service": 200}
    who = httpx.get(f"{world.system.url}/vault/caller", headers={"authorization": f"Bearer {token}"}).json()
    assert (who["id"], who["scopes"]) == ("corp|ada", ["vault:read"])
    assert "x-atoll-subject" not in who["headers"]


def test_no_attack_with_another_issuers_keys_opens_a_door(world: World) -> None:
    until_sync(lambda: world.statuses(world.corp.mint.token()) == {"gateway": 200, "service": 200})
    for alg in ("RS256", "ES256", "EdDSA"):
        for name, token in world.corp.mint.confused(alg).items():
            assert world.statuses(token) == {"gateway": 401, "service": 401}, name
    escalated = world.corp.mint.token(words=["vault:read", "auth:admin"], scope="vault:read auth:admin")
    assert world.statuses(escalated) == {"gateway": 403, "service": 403}
    admin = httpx.get(f"{world.system.url}/auth/keys", headers={"authorization": f"Bearer {escalated}"})
    assert admin.status_code == 403


def test_a_key_that_the_other_issuer_rotates_reaches_both_doors(world: World) -> None:
    old = world.corp.mint.token()
    until_sync(lambda: world.statuses(old) == {"gateway": 200, "service": 200})
    world.corp.mint.rotate("RS256", "newer")
    new = world.corp.mint.token()
    until_sync(lambda: world.statuses(new) == {"gateway": 200, "service": 200}, what="the new key")
    assert world.statuses(old) == {"gateway": 401, "service": 401}
