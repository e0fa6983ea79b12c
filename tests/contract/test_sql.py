"""What handlers may write in SQL, alike on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec import Struct

from atoll.database.ports import Database
from atoll.errors import AtollError, Bug, NotFound
from tests.support.kinds import Kind, Told, kind_of

# One column type for each kind.
TYPES = {
    "sqlite": dict.fromkeys(("uuid", "numeric", "moment", "date", "json"), "TEXT") | {"bool": "INTEGER", "bytes": "BLOB"},
    "postgresql": {
        "uuid": "UUID",
        "numeric": "NUMERIC(12, 2)",
        "moment": "TIMESTAMPTZ",
        "date": "DATE",
        "json": "JSONB",
        "bool": "BOOLEAN",
        "bytes": "BYTEA",
    },
}


class Status(enum.StrEnum):
    PENDING = "pending"
    CONFIRMED = "confirmed"


class Line(Struct):
    sku: str
    quantity: int
    price: Decimal


class Order(Struct):
    id: UUID
    total: Decimal
    placed_at: datetime
    due: date
    lines: list[Line]
    paid: bool
    status: Status
    seal: bytes
    note: str | None = None
    history: dict[str, int] | None = None


class OrderLine(Struct):
    id: int


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    name: str = request.param
    url = f"sqlite://{tmp_path}/test.sqlite" if name == "sqlite" else request.getfixturevalue("postgresql_url")
    return kind_of(name, url)


@pytest.fixture
async def database(kind: Kind) -> AsyncIterator[Database]:
    database = kind.database()
    await database.open()
    await database.migrate(None)
    async with database.transaction() as tx:
        await tx.execute(
            "CREATE TABLE orders (id {uuid} PRIMARY KEY, total {numeric} NOT NULL, placed_at {moment} NOT NULL, "
            "due {date} NOT NULL, lines {json} NOT NULL, paid {bool} NOT NULL, status TEXT NOT NULL, seal {bytes} NOT NULL, "
            "note TEXT, history {json}, internal TEXT)".format(**TYPES[kind.name])
        )
    yield database
    await database.close()


def order() -> Order:
    return Order(
        id=uuid4(),
        total=Decimal("12.50"),
        placed_at=datetime(2026, 11, 23, 7, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2))),
        due=date(2026, 12, 24),
        lines=[Line("sku-1", 2, Decimal("6.25"))],
        paid=True,
        status=Status.CONFIRMED,
        seal=b"\x00\xff",
    )


async def insert(tx: Any, order: Order) -> int:
    sql = """INSERT INTO orders (id, total, placed_at, due, lines, paid, status, seal, note, history)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"""
    count: int = await tx.execute(
        sql,
        *(order.id, order.total, order.placed_at, order.due, order.lines),
        *(order.paid, order.status, order.seal, order.note, order.history),
    )
    return count


async def test_a_struct_comes_back_as_it_was_written(database: Database) -> None:
    written = order()
    async with database.transaction() as tx:
        await insert(tx, written)
        read = await tx.one(Order, "SELECT * FROM orders WHERE id = $1", written.id)

    assert read == written
    assert read.placed_at.utcoffset() == timedelta(0)


async def test_json_columns_may_be_null_or_nested(database: Database) -> None:
    written = order()
    written.history = {"a": 1}
    async with database.transaction() as tx:
        await insert(tx, written)
    async with database.reader() as reader:
        read = await reader.all(Order, "SELECT * FROM orders")

    assert read == [written]


async def test_moments_sort_as_time_does(database: Database) -> None:
    early, late = order(), order()
    early.placed_at = datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=5)))
    late.placed_at = datetime(2025, 12, 31, 23, 0, tzinfo=UTC)
    async with database.transaction() as tx:
        await insert(tx, late)
        await insert(tx, early)
        ids = [row["id"] for row in await tx.all(dict, "SELECT id FROM orders ORDER BY placed_at")]
        found = await tx.scalar("SELECT count(*) FROM orders WHERE placed_at > $1", early.placed_at)

    assert [str(id) for id in ids] == [str(early.id), str(late.id)]
    assert found == 1


async def test_no_row_is_not_found_or_none(database: Database) -> None:
    async with database.reader() as reader:
        with pytest.raises(NotFound, match="no such order line"):
            await reader.one(OrderLine, "SELECT 1 AS id WHERE 1 = 2")
        assert await reader.one_or_none(OrderLine, "SELECT 1 AS id WHERE 1 = 2") is None
        assert await reader.all(OrderLine, "SELECT 1 AS id WHERE 1 = 2") == []
        assert await reader.scalar("SELECT 1 AS id WHERE 1 = 2") is None


async def test_two_rows_where_one_was_asked_for_are_a_bug(database: Database) -> None:
    async with database.reader() as reader:
        with pytest.raises(Bug, match="2 rows"):
            await reader.one(OrderLine, "SELECT 1 AS id UNION ALL SELECT 2")


async def test_a_row_that_does_not_fit_is_a_bug_that_names_field_and_columns(database: Database) -> None:
    async with database.reader() as reader:
        with pytest.raises(Bug, match=r"OrderLine.*\$\.id") as bug:
            await reader.one(OrderLine, "SELECT 'x' AS id")
        with pytest.raises(Bug, match="missing required field `id`"):
            await reader.all(OrderLine, "SELECT 1 AS other")
    assert "columns id" in bug.value.hint


async def test_execute_gives_the_number_of_rows_changed(database: Database) -> None:
    async with database.transaction() as tx:
        assert await insert(tx, order()) == 1
        assert await insert(tx, order()) == 1
        assert await tx.execute("UPDATE orders SET note = $1", "x") == 2
        assert await tx.execute("DELETE FROM orders WHERE note = $1", "y") == 0
        assert await tx.execute("SELECT * FROM orders") == 0


async def test_placeholders_may_come_in_any_order_and_twice(database: Database) -> None:
    sql = "SELECT CAST($2 AS TEXT) || '$1' AS a, CAST($1 AS TEXT) || $1 AS b -- not $3\n, CAST($2 AS TEXT) AS c"
    async with database.reader() as reader:
        row = await reader.one(dict, sql, "one", "two")

    assert row == {"a": "two$1", "b": "oneone", "c": "two"}


@pytest.mark.parametrize(
    "sql", ["COMMIT", "  rollback", "-- why\nBEGIN", "/* so */ SAVEPOINT x", "start transaction", "release x", "end"]
)
async def test_transactions_are_not_for_handlers_to_control(database: Database, sql: str) -> None:
    async with database.transaction() as tx:
        with pytest.raises(Bug, match="the transaction is atoll's"):
            await tx.execute(sql)


async def test_a_statement_that_is_wrong_says_so_in_the_databases_words(database: Database) -> None:
    async def work() -> None:
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO nowhere VALUES ($1)", "x")

    with pytest.raises(Exception, match="nowhere") as error:
        await work()
    assert not isinstance(error.value, AtollError)


async def test_on_conflict_leaves_the_transaction_usable(database: Database) -> None:
    columns = "id, total, placed_at, due, lines, paid, status, seal"
    async with database.transaction() as tx:
        await insert(tx, order())
        again = await tx.execute(
            f"INSERT INTO orders ({columns}) SELECT {columns} FROM orders WHERE true ON CONFLICT (id) DO NOTHING"
        )
        await tx.publish(Told("a", 1))

    assert again == 0
    assert len(await database.journal.outbox(10)) == 1


async def test_a_publish_alone_is_a_transaction(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.publish(Told("a", 1))

    assert [row.body for row in await database.journal.outbox(10)] == [b"a:1"]


async def test_a_transaction_without_a_statement_touches_nothing(database: Database) -> None:
    async with database.transaction():
        pass
    with contextlib.suppress(LookupError):
        async with database.transaction():
            raise LookupError

    await asyncio.wait_for(database.ping(), 5)
