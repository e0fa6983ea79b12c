"""What is particular to SQLAlchemy sessions; the promises all databases share are in `test_database`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from atoll.database import open_database
from atoll.database.sqlalchemy import Database, Session
from atoll.delivery import envelope
from atoll.errors import Bug, DatabaseOutage
from tests.support.postgresql import RunningPostgreSQL


class Base(DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"

    sku: Mapped[str] = mapped_column(primary_key=True)
    on_hand: Mapped[int]


async def _opened(url: str) -> Database:
    database: Database = open_database(url, lambda sku: envelope.encode("warehouse", "changed", sku, b"{}"), sqlalchemy=True)
    await database.open()
    await database.migrate(None)
    async with database.transaction() as session:
        await session.run_sync(lambda one: Base.metadata.create_all(one.connection()))
    return database


@pytest.fixture
async def database(postgresql_url: str) -> AsyncIterator[Database]:
    database = await _opened(postgresql_url)
    yield database
    await database.close()


async def _skus(database: Database) -> list[str]:
    async with database.reader() as session:
        return list(await session.scalars(select(Stock.sku).order_by(Stock.sku)))


async def test_objects_and_events_are_committed_together_and_stay_readable(database: Database) -> None:
    told: list[bool] = []
    database.on_published(lambda: told.append(True))
    async with database.transaction() as session:
        kettle = Stock(sku="kettle", on_hand=3)
        session.add(kettle)
        await session.publish("kettle")

    assert kettle.on_hand == 3
    assert await _skus(database) == ["kettle"]
    assert [row.key for row in await database.journal.outbox(10)] == ["kettle"]
    assert told == [True]


async def test_an_exception_rolls_back_objects_and_events(database: Database) -> None:
    async def fail(session: Session) -> None:
        session.add(Stock(sku="kettle", on_hand=3))
        await session.flush()
        await session.publish("kettle")
        raise ValueError("sold out")

    with pytest.raises(ValueError, match="sold out"):
        async with database.transaction() as session:
            await fail(session)

    assert await _skus(database) == []
    assert await database.journal.outbox(10) == []


async def test_outbox_rows_are_the_last_statements_before_commit(database: Database) -> None:
    """The position is drawn under the locks of what was changed: a waiting transaction publishes after the one it waits for."""
    async with database.transaction() as session:
        session.add(Stock(sku="kettle", on_hand=0))

    async def add(amount: int) -> None:
        async with database.transaction() as session:
            await session.publish("kettle")
            stock = await session.get_one(Stock, "kettle", with_for_update=True)
            stock.on_hand += amount
            rows = (await session.fetch("SELECT count(*) FROM atoll.outbox"))[1]
            seen.append((stock.on_hand, rows[0][0]))

    seen: list[tuple[int, int]] = []
    await asyncio.gather(*(add(1) for _ in range(8)))

    assert seen == [(n, n - 1) for n in range(1, 9)]


@pytest.mark.parametrize("how", ["commit", "rollback", "begin"])
async def test_beginning_and_ending_are_not_for_handlers(database: Database, how: str) -> None:
    with pytest.raises(Bug, match=f"{how}\\(\\) is not for a handler"):
        async with database.transaction() as session:
            await getattr(session, how)()


async def test_a_savepoint_undoes_a_part(database: Database) -> None:
    async with database.transaction() as session:
        session.add(Stock(sku="kettle", on_hand=1))
        part = await session.begin_nested()
        session.add(Stock(sku="lamp", on_hand=1))
        await part.rollback()

    assert await _skus(database) == ["kettle"]


async def test_a_reader_can_not_write_and_can_not_publish(database: Database) -> None:
    with pytest.raises(Bug, match="a reader can't write"):
        async with database.reader() as session:
            session.add(Stock(sku="kettle", on_hand=1))
    with pytest.raises(Bug, match="a reader can't publish"):
        async with database.reader() as session:
            await session.publish("kettle")

    assert await _skus(database) == []


async def test_a_session_that_asks_for_nothing_takes_no_connection(database: Database) -> None:
    async with database.transaction() as session:
        assert not session.in_transaction()


async def test_a_wrong_statement_stays_the_services_own_error(database: Database) -> None:
    from sqlalchemy.exc import ProgrammingError

    with pytest.raises(ProgrammingError):
        async with database.transaction() as session:
            await session.execute(text("SELECT * FROM nowhere"))


async def test_more_transactions_than_connections_wait_for_each_other(database: Database) -> None:
    async def add(sku: str) -> None:
        async with database.transaction() as session:
            session.add(Stock(sku=sku, on_hand=1))

    await asyncio.gather(*(add(f"sku-{n:02}") for n in range(30)))

    assert len(await _skus(database)) == 30


async def test_a_cancelled_handler_leaves_a_usable_pool(database: Database) -> None:
    async def hang() -> None:
        async with database.transaction() as session:
            await session.execute(text("SELECT pg_sleep(30)"))

    for _ in range(10):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hang(), 0.05)

    async with database.transaction() as session:
        session.add(Stock(sku="kettle", on_hand=1))
    assert await _skus(database) == ["kettle"]


def test_a_killed_server_is_an_outage_and_its_return_is_not_noticed(tmp_path: Path) -> None:
    running = RunningPostgreSQL.start(tmp_path)
    url = running.database()

    async def live_through_it() -> None:
        database = await _opened(url)
        running.kill()
        with pytest.raises(DatabaseOutage):
            async with database.transaction() as session:
                await session.execute(text("SELECT 1"))
        await running.restart()

        async with database.transaction() as session:
            session.add(Stock(sku="kettle", on_hand=1))
            await session.publish("kettle")

        assert await _skus(database) == ["kettle"]
        assert len(await database.journal.outbox(10)) == 1
        await database.close()

    try:
        asyncio.run(live_through_it())
    finally:
        running.remove()
