"""What only SQLite promises: one writer, held by nobody who waits for something else."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from atoll.database.sqlite import Database, path_of
from atoll.errors import Bug, DatabaseOutage, SystemMistake
from tests.support.kinds import Told, encode
from tests.support.waiting import until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "below" / "test.sqlite"


@pytest.fixture
async def database(file: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite://{file}", encode)
    await database.open()
    await database.migrate(None)
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE told (n INTEGER)")
    yield database
    await database.close()


@pytest.fixture
def other_process(file: Path, database: Database) -> Iterator[sqlite3.Connection]:
    """A connection that competes for the file's lock."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        yield connection


async def insert(database: Database, n: int) -> None:
    async with database.transaction() as tx:
        await tx.execute("INSERT INTO told VALUES ($1)", n)


async def numbers(database: Database) -> list[int]:
    async with database.reader() as reader:
        return [row["n"] for row in await reader.all(dict, "SELECT n FROM told ORDER BY n")]


async def pass_the_loop() -> None:
    """Gives up the loop as any foreign await does."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    await future


async def test_awaiting_anything_else_while_holding_the_writer_is_a_bug_that_names_the_line(database: Database) -> None:
    async def handler() -> None:
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO told VALUES (1)")
            await pass_the_loop()
            await tx.execute("INSERT INTO told VALUES (2)")

    with pytest.raises(Bug, match=r"awaited something else.*test_database_sqlite\.py:\d+"):
        await handler()
    assert await numbers(database) == []


async def test_it_is_a_bug_even_when_nothing_follows_the_await(database: Database) -> None:
    async def handler() -> None:
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO told VALUES (1)")
            await tx.publish(Told("a", 1))
            await pass_the_loop()

    with pytest.raises(Bug, match="awaited something else"):
        await handler()
    assert await numbers(database) == []
    assert await database.journal.outbox(10) == []


async def test_a_second_transaction_within_the_first_is_the_same_bug_and_no_deadlock(database: Database) -> None:
    async def handler() -> None:
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO told VALUES (1)")
            await insert(database, 2)
            await tx.execute("INSERT INTO told VALUES (3)")

    with pytest.raises(Bug, match="awaited something else"):
        await handler()
    assert await numbers(database) == [2]


async def test_awaiting_before_the_first_statement_and_reading_meanwhile_are_fine(database: Database) -> None:
    async with database.transaction() as tx:
        await pass_the_loop()
        assert await numbers(database) == []
        await tx.execute("INSERT INTO told VALUES (1)")
        assert await numbers(database) == []

    assert await numbers(database) == [1]


async def test_the_others_in_a_group_commit_when_one_breaks_the_rule(database: Database) -> None:
    async def offender() -> None:
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO told VALUES (-1)")
            await pass_the_loop()

    results = await asyncio.gather(insert(database, 1), offender(), insert(database, 2), return_exceptions=True)

    assert [type(result) for result in results] == [type(None), Bug, type(None)]
    assert await numbers(database) == [1, 2]


async def test_a_patient_holder_may_await_and_others_wait_for_it(database: Database) -> None:
    go_on = asyncio.Event()
    order: list[str] = []

    async def patient() -> None:
        async with database.transaction(patient=True) as tx:
            await tx.execute("INSERT INTO told VALUES (1)")
            order.append("held")
            await go_on.wait()
            await tx.execute("INSERT INTO told VALUES (2)")
            order.append("left")

    async def other() -> None:
        await insert(database, 3)
        order.append("other")

    holder = asyncio.create_task(patient())
    await until(lambda: order == ["held"])
    waiting = asyncio.create_task(other())
    await pass_the_loop()
    go_on.set()
    await asyncio.gather(holder, waiting)

    assert order == ["held", "left", "other"]
    assert await numbers(database) == [1, 2, 3]


async def test_a_patient_holder_is_not_starved_by_a_stream_of_others(database: Database) -> None:
    ended = asyncio.Event()

    async def busy() -> None:
        while not ended.is_set():
            await insert(database, 0)

    others = [asyncio.create_task(busy()) for _ in range(8)]
    for _ in range(5):
        async with database.transaction(patient=True) as tx:
            await tx.execute("INSERT INTO told VALUES (1)")
            await pass_the_loop()
    ended.set()
    await asyncio.gather(*others)

    assert (await numbers(database)).count(1) == 5


async def test_nobody_holds_the_writer_for_more_than_a_second(database: Database) -> None:
    async def endless() -> None:
        async with database.transaction(patient=True) as tx:
            await tx.execute("INSERT INTO told VALUES (1)")
            await asyncio.Event().wait()

    holder = asyncio.create_task(endless())
    await pass_the_loop()
    await asyncio.wait_for(insert(database, 2), 5)
    holder.cancel()
    await asyncio.wait([holder])

    assert await numbers(database) == [2]


async def test_a_thread_may_work_in_a_patient_transaction_through_the_loop(database: Database) -> None:
    loop = asyncio.get_running_loop()

    def work(tx: Any) -> int:
        for n in range(3):
            asyncio.run_coroutine_threadsafe(tx.execute("INSERT INTO told VALUES ($1)", n), loop).result()
        count: int = asyncio.run_coroutine_threadsafe(tx.scalar("SELECT count(*) FROM told"), loop).result()
        return count

    async with database.transaction(patient=True) as tx:
        assert await asyncio.to_thread(work, tx) == 3
    assert await numbers(database) == [0, 1, 2]


async def test_handlers_that_are_ready_together_share_a_commit(database: Database) -> None:
    commits: list[str] = []
    database._connections[0].set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)

    await asyncio.gather(*(insert(database, n) for n in range(40)))

    assert len(commits) <= 3
    assert await numbers(database) == list(range(40))


async def test_a_statement_that_takes_too_long_is_an_outage_for_its_whole_group(database: Database) -> None:
    endless = """INSERT INTO told
        WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c WHERE n < 0"""

    async def slow() -> None:
        async with database.transaction() as tx:
            await tx.execute(endless)

    results = await asyncio.gather(insert(database, 1), slow(), return_exceptions=True)

    assert [type(result) for result in results] == [DatabaseOutage, DatabaseOutage]
    assert "longer than 1 s" in str(results[1])
    await insert(database, 2)
    assert await numbers(database) == [2]


async def test_another_process_that_holds_the_lock_is_waited_for_without_blocking_the_loop(
    database: Database, other_process: sqlite3.Connection
) -> None:
    other_process.execute("BEGIN IMMEDIATE")
    writing = [asyncio.create_task(insert(database, n)) for n in range(3)]
    assert await numbers(database) == []
    await pass_the_loop()
    other_process.execute("COMMIT")
    await asyncio.gather(*writing)

    assert await numbers(database) == [0, 1, 2]


async def test_a_turn_that_can_not_begin_holds_up_nobody_behind_it(database: Database) -> None:
    holds, go_on = asyncio.Event(), asyncio.Event()
    refused: list[str] = []

    async def patient(n: int) -> None:
        async with database.transaction(patient=True) as tx:
            await tx.execute("INSERT INTO told VALUES ($1)", n)
            holds.set()
            await go_on.wait()

    def refuse_one(action: int, name: str | None, *_: Any) -> int:
        if action != sqlite3.SQLITE_SAVEPOINT or name != "BEGIN" or refused:
            return sqlite3.SQLITE_OK
        refused.append(name)
        return sqlite3.SQLITE_DENY

    turns = [asyncio.create_task(patient(n)) for n in range(3)]
    await holds.wait()
    database._connections[0].set_authorizer(refuse_one)
    go_on.set()
    results = await asyncio.wait_for(asyncio.gather(*turns, return_exceptions=True), 5)
    assert [type(one) for one in results] == [type(None), sqlite3.DatabaseError, type(None)]
    assert await numbers(database) == [0, 2]


async def test_closing_waits_for_the_commit_in_hand_and_sends_the_rest_away(file: Path, database: Database) -> None:
    writing = [asyncio.create_task(insert(database, n)) for n in range(3)]
    await pass_the_loop()
    await database.close()
    await asyncio.gather(*writing, return_exceptions=True)

    with pytest.raises(DatabaseOutage):
        database.transaction()
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM told").fetchone() == (3,)
    assert not [thread for thread in threading.enumerate() if thread.name == "atoll-sqlite-commit"]


async def test_what_was_committed_is_on_the_disk(database: Database) -> None:
    async with database.transaction() as tx:
        assert await tx.scalar("PRAGMA synchronous") == 2
        assert await tx.scalar("PRAGMA journal_mode") == "wal"


@pytest.mark.parametrize("url", ["sqlite://relative.sqlite", "sqlite:///", "postgresql:///x", "sqlite://host/x"])
def test_a_url_without_an_absolute_path_is_refused(url: str) -> None:
    with pytest.raises(SystemMistake, match="not a SQLite URL"):
        path_of(url)


def test_both_ways_to_write_an_absolute_path_are_understood() -> None:
    assert path_of("sqlite:///var/x%20y.sqlite") == path_of("sqlite:////var/x%20y.sqlite") == Path("/var/x y.sqlite")


async def test_a_deferred_constraint_is_refused_because_handlers_share_commits(tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_lines.sql").write_text(
        "CREATE TABLE a (id INTEGER PRIMARY KEY);\nCREATE TABLE b (a REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED);\n"
    )
    database = Database(f"sqlite://{tmp_path}/x.sqlite", encode)
    await database.open()
    try:
        with pytest.raises(SystemMistake, match="checked at once") as caught:
            await database.migrate(folder)
    finally:
        await database.close()

    assert caught.value.where.endswith("0001_lines.sql:2")
