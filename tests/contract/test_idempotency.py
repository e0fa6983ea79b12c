"""`Idempotency-Key` on every kind of database: the same key and request, the same answer, one effect."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from atoll.database.ports import Database
from tests.support.kinds import Kind
from tests.support.repeated import Gate, service_on
from tests.support.services import bearer, serving
from tests.support.waiting import until


@contextlib.asynccontextmanager
async def replica(kind: Kind, gate: Gate | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one replica; each has connections of its own to the one database."""
    database = kind.database()
    await database.open()
    try:
        async with serving(service_on(kind, gate or Gate()), database) as client:
            yield client
    finally:
        await database.close()


@pytest.fixture
async def database(kind: Kind) -> AsyncIterator[Database]:
    database = kind.database()
    await database.open()
    await database.migrate(None)
    await kind.create(database)
    yield database
    await database.close()


@pytest.fixture
async def client(kind: Kind, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with replica(kind) as client:
        yield client


async def effects(kind: Kind, database: Database) -> list[tuple[str, int]]:
    async with database.reader() as reader:
        return await kind.rows(reader)


def keyed(key: str, who: str = "alice") -> dict[str, str]:
    return {"idempotency-key": key, **bearer(who)}


async def place(client: httpx.AsyncClient, key: str = "k1", who: str = "alice", **body: Any) -> httpx.Response:
    return await client.post("/orders", json={"sku": "mug", "n": 1, **body}, headers=keyed(key, who))


async def test_the_same_request_is_answered_as_before_and_has_one_effect(
    kind: Kind, database: Database, client: httpx.AsyncClient
) -> None:
    first, second, third = [await place(client) for _ in range(3)]

    assert first.status_code == 201, first.text
    assert [(one.status_code, one.content) for one in (second, third)] == [(first.status_code, first.content)] * 2
    assert second.headers["content-type"] == first.headers["content-type"] == "application/json"
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert await effects(kind, database) == [("mug", 1)]
    assert len(await database.journal.outbox(10)) == 1


async def test_requests_without_a_key_are_each_their_own(kind: Kind, database: Database, client: httpx.AsyncClient) -> None:
    for _ in range(2):
        assert (await client.post("/orders", json={"sku": "mug", "n": 1}, headers=bearer())).status_code == 201

    assert await effects(kind, database) == [("mug", 1), ("mug", 1)]


async def test_a_key_that_was_used_for_another_request_is_refused(
    kind: Kind, database: Database, client: httpx.AsyncClient
) -> None:
    await place(client)

    other_body = await place(client, n=2)
    other_query = await client.post("/orders?gift=1", json={"sku": "mug", "n": 1}, headers=keyed("k1"))

    for answer in (other_body, other_query):
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert await effects(kind, database) == [("mug", 1)]


async def test_a_key_is_its_callers_own(kind: Kind, database: Database, client: httpx.AsyncClient) -> None:
    alices, bobs = await place(client, who="alice"), await place(client, who="bob")

    assert (alices.status_code, bobs.status_code) == (201, 201)
    assert (alices.json()["by"], bobs.json()["by"]) == ("alice", "bob")
    assert "idempotency-replayed" not in bobs.headers
    assert (await place(client, who="alice")).content == alices.content
    assert await effects(kind, database) == [("mug", 1), ("mug", 1)]


async def test_what_raised_kept_nothing_and_its_key_is_free_again(
    kind: Kind, database: Database, client: httpx.AsyncClient
) -> None:
    refused = await place(client, n=13)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert await effects(kind, database) == []

    assert (await place(client, n=1)).status_code == 201
    assert await effects(kind, database) == [("mug", 1)]


async def test_while_it_is_answered_the_same_request_is_told_so_by_every_replica(kind: Kind, database: Database) -> None:
    gate = Gate(closed=True)
    async with replica(kind, gate) as busy, replica(kind) as other:
        first = asyncio.create_task(place(busy))
        await gate.reached.wait()
        meanwhile = [await place(busy)]
        if kind.name != "sqlite":  # has one replica
            meanwhile.append(await place(other))
        gate.opened.set()
        answered = await first

    for answer in meanwhile:
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_in_use")
        assert answer.headers["retry-after"] == "1"
    assert answered.status_code == 201
    async with replica(kind) as later:
        assert (await place(later)).content == answered.content
    assert await effects(kind, database) == [("mug", 1)]


async def test_of_many_at_once_one_has_the_effect_and_all_come_to_the_same_answer(kind: Kind, database: Database) -> None:
    async def free(client: httpx.AsyncClient) -> list[httpx.Response]:
        answer = await place(client)
        assert answer.status_code != 409 or answer.json()["code"] == "idempotency_key_in_use"
        return [answer] if answer.status_code != 409 else []

    async def persistent(client: httpx.AsyncClient) -> bytes:
        (answer,) = await until(lambda: free(client), what="the key to be free")
        assert answer.status_code == 201, answer.text
        return answer.content

    async with replica(kind) as one, replica(kind) as two:
        clients = [one] if kind.name == "sqlite" else [one, two]
        bodies = await asyncio.gather(*(persistent(clients[n % len(clients)]) for n in range(20)))

    assert len(set(bodies)) == 1
    assert await effects(kind, database) == [("mug", 1)]


async def test_a_process_killed_after_its_commit_is_answered_for_by_the_next(
    kind: Kind, database: Database, tmp_path: Path
) -> None:
    """The moment this is all about: the effect is there, and its client was told nothing."""
    flag = tmp_path / "dying"
    flag.touch()
    died = subprocess.run(
        [sys.executable, "-m", "tests.support.repeated", kind.name, kind.url],
        env={**os.environ, "ATOLL_FAULTS": f"answer.committed:1,while:{flag}"},
        capture_output=True,
        timeout=60,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert await effects(kind, database) == [("mug", 1)]

    async with replica(kind) as next_one:
        answer = await place(next_one)

    assert (answer.status_code, answer.json()["by"]) == (201, "alice")
    assert answer.headers["idempotency-replayed"] == "true"
    assert await effects(kind, database) == [("mug", 1)]
    assert len(await database.journal.outbox(10)) == 1


async def test_an_answer_that_is_old_enough_is_forgotten_and_so_is_its_key(
    kind: Kind, database: Database, client: httpx.AsyncClient
) -> None:
    await place(client)
    assert await until(lambda: database.journal.forget_answers(0.0)) == 1

    assert (await place(client, n=2)).status_code == 201
    assert await effects(kind, database) == [("mug", 1), ("mug", 2)]
