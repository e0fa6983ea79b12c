"""What only PostgreSQL promises: its pool, its time limits, and what a caught error leads to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from atoll.database.postgresql import Database
from atoll.database.postgresql_pool import Pool
from atoll.errors import Bug, DatabaseOutage, SystemMistake
from tests.support.kinds import Told, encode
from tests.support.waiting import until


@pytest.fixture
async def database(postgresql_url: str) -> AsyncIterator[Database]:
    database = Database(postgresql_url, encode)
    await database.open()
    await database.migrate(None)
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE told (n INTEGER PRIMARY KEY)")
    yield database
    await database.close()


@pytest.fixture
async def other(postgresql_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection of another process."""
    connection = await asyncpg.connect(postgresql_url)
    yield connection
    await connection.close()


async def insert(database: Database, n: int) -> None:
    async with database.transaction() as tx:
        await tx.execute("INSERT INTO told VALUES ($1)", n)


async def numbers(database: Database) -> list[int]:
    async with database.reader() as reader:
        return [row["n"] for row in await reader.all(dict, "SELECT n FROM told ORDER BY n")]


async def sessions(other: asyncpg.Connection[Any], condition: str = "true") -> int:
    sql = (
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND {condition}"
    )
    count: int = await other.fetchval(sql)
    return count


@pytest.mark.parametrize("event", [True, False])
async def test_going_on_after_a_caught_error_is_a_bug_and_commits_nothing(database: Database, event: bool) -> None:
    async def handler() -> None:
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO told VALUES (1)")
            try:
                await tx.execute("INSERT INTO told VALUES (1)")
            except asyncpg.UniqueViolationError:
                if event:
                    await tx.publish(Told("a", 1))

    with pytest.raises(Bug, match="caught"):
        await handler()
    assert await numbers(database) == []
    await insert(database, 2)


async def test_two_statements_at_once_in_one_transaction_are_a_bug(database: Database) -> None:
    async def handler(first: str) -> None:
        async with database.transaction() as tx:
            await tx.execute(first)
            await asyncio.gather(tx.scalar("SELECT pg_sleep(0.05)"), tx.scalar("SELECT 2"))

    with pytest.raises(Bug, match="two statements at once"):
        await handler("SELECT 1")
    await insert(database, 2)


async def test_more_transactions_than_connections_wait_their_turn(database: Database, other: asyncpg.Connection[Any]) -> None:
    await asyncio.gather(*(insert(database, n) for n in range(64)))

    assert await numbers(database) == list(range(64))
    assert await sessions(other) <= 12


async def test_room_that_a_cancelled_caller_was_told_of_is_the_next_callers(postgresql_url: str) -> None:
    pool = Pool(postgresql_url, 1, {})
    connection, _ = await pool.acquire()
    first, second = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
    await until(lambda: len(pool._waiters) == 2)

    pool.discard(connection)
    first.cancel()

    connection, _ = await asyncio.wait_for(second, 3)
    pool.release(connection)
    await pool.close()


async def test_a_session_that_was_ended_while_idle_is_replaced_unnoticed(
    database: Database, other: asyncpg.Connection[Any]
) -> None:
    await insert(database, 1)
    await other.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    await insert(database, 2)
    assert await numbers(database) == [1, 2]


async def test_a_session_that_ends_within_a_transaction_is_an_outage_and_commits_nothing(
    database: Database, other: asyncpg.Connection[Any]
) -> None:
    async def handler() -> None:
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO told VALUES (1)")
            await other.execute("SELECT pg_terminate_backend($1)", await tx.scalar("SELECT pg_backend_pid()"))
            await tx.execute("INSERT INTO told VALUES (2)")

    with pytest.raises(DatabaseOutage):
        await handler()
    assert await numbers(database) == []
    await insert(database, 3)


async def test_a_deadlock_is_an_outage_for_one_and_the_other_commits(database: Database) -> None:
    await insert(database, 1)
    await insert(database, 2)
    both = asyncio.Barrier(2)

    async def handler(first: int, second: int) -> None:
        async with database.transaction() as tx:
            await tx.execute("UPDATE told SET n = n WHERE n = $1", first)
            await both.wait()
            await tx.execute("UPDATE told SET n = n WHERE n = $1", second)

    results = await asyncio.gather(handler(1, 2), handler(2, 1), return_exceptions=True)

    assert sorted(type(result).__name__ for result in results) == ["DatabaseOutage", "NoneType"]


async def test_a_cancelled_statement_is_rolled_back_on_the_server_too(
    database: Database, other: asyncpg.Connection[Any]
) -> None:
    async def handler() -> None:
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO told VALUES (1)")
            await tx.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(handler())
    await until(lambda: sessions(other, "query LIKE '%pg_sleep%'"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await until(lambda: none_in_transaction(other))
    assert await numbers(database) == []


async def none_in_transaction(other: asyncpg.Connection[Any]) -> bool:
    return await sessions(other, "state NOT IN ('idle')") == 0


async def test_statements_and_idle_transactions_have_time_limits(database: Database) -> None:
    async def slow() -> None:
        async with database.transaction() as tx:
            assert await tx.scalar("SHOW statement_timeout") == "5s"
            assert await tx.scalar("SHOW idle_in_transaction_session_timeout") == "8s"
            await tx.execute("SET LOCAL statement_timeout = 20")
            await tx.execute("SELECT pg_sleep(5)")

    with pytest.raises(DatabaseOutage, match="statement timeout"):
        await slow()
    await insert(database, 1)


async def test_migrations_outside_a_transaction_run_again_until_they_finish(postgresql_url: str, tmp_path: Path) -> None:
    (tmp_path / "0001_table.sql").write_text("CREATE TABLE t (id INTEGER); INSERT INTO t VALUES (1), (1);")
    index = tmp_path / "0002_index.sql"
    index.write_text("-- atoll: no transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS t_id ON t (id);")
    database = Database(postgresql_url, encode)

    with pytest.raises(SystemMistake, match=r"0002_index\.sql"):
        await database.migrate(tmp_path)
    index.write_text("-- atoll: no transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS t_id_again ON t (id);")

    assert await database.migrate(tmp_path) == ["0002_index.sql"]
    assert await database.migrate(tmp_path) == []


async def test_a_failing_migration_names_the_line(postgresql_url: str, tmp_path: Path) -> None:
    (tmp_path / "0001_bad.sql").write_text("CREATE TABLE t (id INTEGER);\n\nINSERT INTO nowhere VALUES (1);\n")

    with pytest.raises(SystemMistake, match=r"0001_bad\.sql:3: .*nowhere"):
        await Database(postgresql_url, encode).migrate(tmp_path)


async def test_a_server_that_has_no_such_role_is_an_outage_that_says_why(postgresql_url: str) -> None:
    scheme, rest = postgresql_url.split("://")
    wrong = f"{scheme}://nobody:x@{rest.split('@')[1]}"

    with pytest.raises(DatabaseOutage, match="password authentication failed"):
        await Database(wrong, encode).open()
