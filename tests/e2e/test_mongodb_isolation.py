"""What one service's MongoDB credentials can't do, and what an operator's mistakes look like. Real mongod."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from atoll.engines import mongodb as engine
from atoll.errors import EngineOutage
from atoll.provision import mongodb as provision
from tests.support.mongodb import RunningMongod
from tests.support.ports import free_port

Client = AsyncMongoClient[dict[str, Any]]
UNAUTHORIZED = 13
AUTHENTICATION_FAILED = 18


@pytest.fixture
def two_services(mongod: RunningMongod) -> dict[str, str]:
    """URLs of two services on one server."""
    return {name: mongod.database(name) for name in ("catalog", "reviews")}


async def test_a_service_reads_and_writes_its_own_database(two_services: dict[str, str]) -> None:
    async with Client(two_services["catalog"]) as client:
        await client.catalog.products.replace_one({"_id": "sku-1"}, {"name": "kettle"}, upsert=True)

        assert await client.catalog.products.find_one({"_id": "sku-1"}) == {"_id": "sku-1", "name": "kettle"}


@pytest.mark.parametrize("other", ["reviews", "admin", "local", "config"])
async def test_a_service_reads_no_other_database(two_services: dict[str, str], other: str) -> None:
    async with Client(two_services["catalog"]) as client:
        with pytest.raises(OperationFailure) as refused:
            await client[other].products.find_one({})
        assert refused.value.code == UNAUTHORIZED

        with pytest.raises(OperationFailure) as refused:
            await client[other].products.insert_one({"forged": True})
        assert refused.value.code == UNAUTHORIZED


@pytest.mark.parametrize("command", ["usersInfo", "replSetGetConfig", "shutdown", "currentOp"])
async def test_a_service_administers_nothing(two_services: dict[str, str], command: str) -> None:
    async with Client(two_services["catalog"]) as client:
        with pytest.raises(OperationFailure) as refused:
            await client.admin.command(command, 1)

        assert refused.value.code == UNAUTHORIZED


async def test_without_credentials_everything_is_refused(mongod: RunningMongod, two_services: dict[str, str]) -> None:
    async with Client("127.0.0.1", mongod.settings.port, directConnection=True) as stranger:
        for database in two_services:
            with pytest.raises(OperationFailure) as refused:
                await stranger[database].products.find_one({})
            assert refused.value.code == UNAUTHORIZED
        with pytest.raises(OperationFailure):
            await stranger.admin.command("createUser", "intruder", pwd="x", roles=["root"])


async def test_a_wrong_password_is_refused(two_services: dict[str, str]) -> None:
    wrong = two_services["catalog"].replace("catalog:", "catalog:not-", 1)
    async with Client(wrong) as client:
        with pytest.raises(OperationFailure) as refused:
            await client.catalog.products.find_one({})

    assert refused.value.code == AUTHENTICATION_FAILED


def test_provisioning_again_changes_nothing_and_keeps_connections(mongod: RunningMongod) -> None:
    async def repeat() -> None:
        await provision.provision(mongod.server, {"stable": "secret"})
        async with Client(provision.url(mongod.settings.port, "stable", "secret"), retryReads=False) as client:
            await client.stable.things.find_one({})
            await provision.provision(mongod.server, {"stable": "secret"})
            await client.stable.things.find_one({})

    asyncio.run(repeat())


def test_a_new_password_replaces_the_old_one(mongod: RunningMongod) -> None:
    async def change() -> None:
        await provision.provision(mongod.server, {"rotated": "old"})
        await provision.provision(mongod.server, {"rotated": "new"})
        async with Client(provision.url(mongod.settings.port, "rotated", "new")) as client:
            await client.rotated.things.find_one({})

    asyncio.run(change())


def test_data_that_belongs_to_another_administrator_is_told_so(mongod: RunningMongod) -> None:
    stranger = replace(mongod.server, password="another")

    with pytest.raises(EngineOutage, match="administrator with another password"):
        asyncio.run(provision.provision(stranger, {}))


def test_a_server_that_was_killed_and_comes_back_on_another_port_keeps_its_data(tmp_path: Path) -> None:
    running = RunningMongod.start(tmp_path)
    try:
        asyncio.run(_write(running.database("catalog")))
        running.kill()
        running.settings = replace(running.settings, port=free_port())
        running.spawn()
        url = running.database("catalog")

        assert asyncio.run(_read(url)) == {"_id": 1}
    finally:
        running.kill()


def test_a_crash_between_replica_set_and_administrator_is_repaired_by_the_next_call(tmp_path: Path) -> None:
    running = RunningMongod(tmp_path, engine.Settings(tmp_path / "data", free_port(), "ab" * 16), "secret")
    running.spawn()

    async def crash_half_way() -> None:
        await provision._wait(running.server, "listening", 20.0)
        async with provision._client(running.server, authorized=False) as stranger:
            await provision._start_replica_set(stranger, running.server)

    try:
        asyncio.run(crash_half_way())
        asyncio.run(_write(running.database("catalog")))
    finally:
        running.kill()


def test_the_key_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    settings = engine.Settings(tmp_path / "data", 1, "ab" * 16)
    for _start in range(2):
        engine.command(Path("mongod"), settings, tmp_path / "log")

    assert stat.S_IMODE((settings.data / "atoll.key").stat().st_mode) == 0o600


def test_a_mongod_that_lacks_a_library_is_named_with_its_package(tmp_path: Path) -> None:
    broken = _program(tmp_path, "echo 'mongod: error while loading shared libraries: libcurl.so.4: cannot open' >&2; exit 127")

    with pytest.raises(EngineOutage, match=r"libcurl\.so\.4 is missing") as outage:
        engine.version(broken)
    assert outage.value.hint == "apt install libcurl4"


def test_path_comes_before_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = _program(tmp_path, "echo 'db version v7.0.1'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert engine.find() == mine
    assert engine.version(mine) == "7.0.1"


def _program(folder: Path, script: str) -> Path:
    path = folder / "mongod"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def _write(url: str) -> None:
    async with Client(url, w="majority", journal=True) as client:
        await client.catalog.products.insert_one({"_id": 1})


async def _read(url: str) -> Any:
    async with Client(url) as client:
        return await client.catalog.products.find_one({})
