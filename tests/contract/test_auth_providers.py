"""Auth fetches other issuers' keys, keeps the last good ones, and publishes what everybody may trust."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from atoll.auth.configuration import Configuration, TrustedProvider
from atoll.tokens.providers import Provider, Providers
from tests.support.auth import CONFIGURATION, RunningAuth, running_auth
from tests.support.foreign import IssuerServer, issuer_server
from tests.support.ports import free_port
from tests.support.waiting import until


@pytest.fixture
def corp() -> Iterator[IssuerServer]:
    with issuer_server(free_port()) as server:
        yield server


def trusting(corp: IssuerServer, **changes: Any) -> Configuration:
    options = {"scope_claim": "roles", "grants": {"reader": ("orders:read",)}, "fetch_every_s": 1}
    provider = TrustedProvider(corp.url, "api://shop", **{**options, **changes})
    return msgspec.structs.replace(CONFIGURATION, providers={"corp": provider})


def published(auth: RunningAuth) -> list[Providers]:
    return [Providers.parse(one.body) for one in auth.broker.messages("keys") if one.subject == "keys.providers"]


def trusted(auth: RunningAuth) -> dict[str, Provider]:
    """What somebody who listens trusts now."""
    found = published(auth)
    return {one.name: one for one in found[-1].providers} if found else {}


def kids(auth: RunningAuth) -> set[str]:
    return set(trusted(auth)["corp"].by_kid) if "corp" in trusted(auth) else set()


ALL = {"key-RS256", "key-ES256", "key-EdDSA"}


async def test_the_keys_are_found_by_the_issuers_discovery_document(auth_url: str, corp: IssuerServer) -> None:
    async with running_auth(auth_url, configuration=trusting(corp)) as auth:
        await until(lambda: kids(auth) == ALL)
        found = trusted(auth)["corp"]
        assert (found.issuer, found.audience, found.scope_claim) == (corp.url, "api://shop", "roles")
        assert dict(found.grants) == {"reader": ("orders:read",)}
        assert found.by_kid["key-RS256"].alg == "RS256"


async def test_a_key_that_the_issuer_rotates_is_published_with_the_next_fetch(auth_url: str, corp: IssuerServer) -> None:
    async with running_auth(auth_url, configuration=trusting(corp)) as auth:
        await until(lambda: kids(auth) == ALL)
        corp.mint.rotate("RS256", "newer")
        await until(lambda: kids(auth) == {"newer", "key-ES256", "key-EdDSA"})
        versions = [one.version for one in published(auth)]
        assert versions == sorted(versions)


@pytest.mark.parametrize(("status", "body"), [(503, b""), (200, b"<html>"), (200, b"x" * 300_000)])
async def test_an_issuer_that_is_out_or_answers_nonsense_keeps_its_last_good_keys(
    auth_url: str, corp: IssuerServer, status: int, body: bytes
) -> None:
    async with running_auth(auth_url, configuration=trusting(corp)) as auth:
        await until(lambda: kids(auth) == ALL)
        corp.status, corp.body, corp.asked = status, body, 0
        await until(lambda: corp.asked >= 2)
        assert kids(auth) == ALL
        broker = auth.broker
    async with running_auth(auth_url, configuration=trusting(corp), broker=broker) as again:
        assert kids(again) == ALL, "a start does not depend on the issuer"


async def test_a_discovery_document_of_another_issuer_is_not_believed(auth_url: str, corp: IssuerServer) -> None:
    corp.says = "https://elsewhere.example"
    async with running_auth(auth_url, configuration=trusting(corp)) as auth:
        await until(lambda: "corp" in trusted(auth))
        assert await auth.sign_in(), "auth works without"
        assert kids(auth) == set()


async def test_keys_may_come_from_a_url_of_their_own_or_a_file(auth_url: str, corp: IssuerServer, tmp_path: Any) -> None:
    corp.says = "https://elsewhere.example"
    async with running_auth(auth_url, configuration=trusting(corp, jwks_url=f"{corp.url}/jwks")) as auth:
        await until(lambda: kids(auth) == ALL)
    corp.mint.rotate("RS256", "from a file")
    (tmp_path / "jwks.json").write_bytes(corp.mint.jwks)
    async with running_auth(auth_url, configuration=trusting(corp, jwks_file=str(tmp_path / "jwks.json"))) as auth:
        await until(lambda: "from a file" in kids(auth))


async def test_a_provider_that_left_the_manifest_is_trusted_no_more(auth_url: str, corp: IssuerServer) -> None:
    async with running_auth(auth_url, configuration=trusting(corp)) as auth:
        await until(lambda: kids(auth) == ALL)
        broker = auth.broker
    async with running_auth(auth_url, broker=broker) as auth:
        await until(lambda: trusted(auth) == {})


async def test_keys_of_a_name_are_not_those_of_another_issuer_under_it(auth_url: str, corp: IssuerServer) -> None:
    async with running_auth(auth_url, configuration=trusting(corp)) as auth:
        await until(lambda: kids(auth) == ALL)
    with issuer_server(free_port()) as other:
        other.status = 503
        async with running_auth(auth_url, configuration=trusting(other)) as auth:
            await until(lambda: trusted(auth)["corp"].issuer == other.url if trusted(auth) else False)
            assert kids(auth) == set()


async def test_a_system_without_providers_publishes_none(auth: RunningAuth) -> None:
    assert await auth.sign_in()
    assert published(auth) == []
