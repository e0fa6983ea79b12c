"""What is particular to MongoDB; the promises all databases share are in `test_database`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec import Struct

from atoll.database import open_database
from atoll.database.mongodb import Database, Transaction, WriteConflict
from atoll.delivery import envelope
from atoll.errors import Bug, Conflict, DatabaseOutage, NotFound, SystemMistake


class Colour(Enum):
    RED = "red"


class Part(Struct):
    name: str
    weight: Decimal


class Thing(Struct):
    id: str
    price: Decimal
    serial: UUID
    made_at: datetime
    made_on: date
    colour: Colour
    parts: list[Part]
    data: bytes = b""


class Stock(Struct):
    """Documents have their `_id` elsewhere."""

    sku: str
    on_hand: int


THING = Thing(
    id="lamp",
    price=Decimal("12.50"),
    serial=uuid4(),
    made_at=datetime(2026, 1, 2, 3, 4, 5, 678000, UTC),
    made_on=date(2026, 1, 2),
    colour=Colour.RED,
    parts=[Part("shade", Decimal("0.250"))],
    data=b"\x00\xff",
)


async def _opened(url: str) -> Database:
    database: Database = open_database(url, lambda key: envelope.encode("warehouse", "changed", key, b"{}"))
    await database.open()
    await database.migrate(None)
    return database


@pytest.fixture
async def database(mongodb_url: str) -> AsyncIterator[Database]:
    database = await _opened(mongodb_url)
    yield database
    await database.close()


@pytest.fixture
async def stocked(database: Database) -> Database:
    async with database.transaction() as tx:
        await tx.insert("stock", Stock("kettle", 0), id="kettle")
    return database


async def on_hand(database: Database) -> int:
    async with database.reader() as reader:
        return (await reader.one(Stock, "stock", {"_id": "kettle"})).on_hand


async def add_one(tx: Transaction) -> int:
    return await tx.update("stock", {"_id": "kettle"}, {"$inc": {"on_hand": 1}})


# documents


async def test_a_struct_comes_back_as_it_went(database: Database) -> None:
    async with database.transaction() as tx:
        assert await tx.insert("things", THING) == "lamp"

    async with database.reader() as reader:
        thing = await reader.one(Thing, "things", {"_id": "lamp"})
    assert thing == THING
    assert str(thing.price) == "12.50"


async def test_a_field_called_id_is_the_documents_id_and_a_dict_is_the_document_as_it_is(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.insert("things", THING)
        made = await tx.insert("stock", Stock("kettle", 3))

    async with database.reader() as reader:
        assert (await reader.one(dict, "things", {}))["_id"] == "lamp"
        assert await reader.one(dict, "stock", {}) == {"_id": made, "sku": "kettle", "on_hand": 3}
        assert await reader.one(Stock, "stock", {}) == Stock("kettle", 3)


async def test_decimals_are_numbers_in_filters_and_changes(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.insert("things", THING)
        assert await tx.update("things", {"price": {"$gt": Decimal("12.4"), "$lt": 13}}, {"$inc": {"price": Decimal("0.10")}})

    async with database.reader() as reader:
        assert await reader.one(Thing, "things", {"serial": THING.serial, "colour": Colour.RED}) == (
            Thing(**{field: getattr(THING, field) for field in THING.__struct_fields__} | {"price": Decimal("12.60")})
        )


async def test_a_document_that_does_not_fit_is_a_bug_that_names_the_field(stocked: Database) -> None:
    with pytest.raises(Bug, match="does not fit Thing"):
        async with stocked.reader() as reader:
            await reader.one(Thing, "stock", {})


async def test_all_sorts_and_limits(database: Database) -> None:
    async with database.transaction() as tx:
        for n, sku in enumerate("cab"):
            await tx.insert("stock", Stock(sku, n % 2))

    async with database.reader() as reader:
        found = await reader.all(Stock, "stock", {}, sort=("-on_hand", "sku"), limit=2)
    assert [stock.sku for stock in found] == ["a", "b"]


async def test_what_is_not_there(database: Database) -> None:
    async with database.reader() as reader:
        assert await reader.one_or_none(Stock, "stock", {"_id": "unicorn"}) is None
        assert await reader.all(Stock, "stock") == []
        with pytest.raises(NotFound):
            await reader.one(Stock, "stock", {"_id": "unicorn"})


async def test_counts_tell_what_matched(stocked: Database) -> None:
    async with stocked.transaction() as tx:
        assert await tx.update("stock", {"_id": "kettle"}, {"$set": {"on_hand": 0}}) == 1
        assert await tx.update("stock", {"_id": "unicorn"}, {"$set": {"on_hand": 0}}) == 0
        assert await tx.replace("stock", {"_id": "unicorn"}, Stock("unicorn", 1)) == 0
        assert await tx.replace("stock", {"_id": "unicorn"}, Stock("unicorn", 1), upsert=True) == 0
        assert await tx.replace("stock", {"_id": "unicorn"}, Stock("unicorn", 2)) == 1
        assert await tx.delete("stock", {"on_hand": 2}) == 1
        assert await tx.delete("stock", {"on_hand": 2}) == 0


async def test_updated_gives_the_document_after_or_before(stocked: Database) -> None:
    async with stocked.transaction() as tx:
        change = {"$inc": {"on_hand": 5}}
        assert await tx.updated(Stock, "stock", {"_id": "kettle"}, change) == Stock("kettle", 5)
        assert await tx.updated(Stock, "stock", {"_id": "kettle"}, change, before=True) == Stock("kettle", 5)
        assert await tx.updated(Stock, "stock", {"_id": "unicorn"}, change) is None


async def test_a_raw_collection_is_part_of_the_transaction(stocked: Database) -> None:
    async def count_and_fail() -> None:
        async with stocked.transaction() as tx:
            stock = tx.collection("stock")
            await stock.insert_many([{"on_hand": 1}, {"on_hand": 2}])
            assert await stock.count_documents({}) == 3
            assert len(await stock.find({"on_hand": {"$gt": 0}})) == 2
            assert await stock.aggregate([{"$group": {"_id": None, "sum": {"$sum": "$on_hand"}}}]) == [{"_id": None, "sum": 3}]
            raise LookupError

    with pytest.raises(LookupError):
        await count_and_fail()

    assert await stocked.collection("stock").count_documents({}) == 1


# conflicts


async def test_a_second_document_with_one_id_is_a_conflict_and_ends_the_transaction(stocked: Database) -> None:
    async def add_twice() -> None:
        async with stocked.transaction() as tx:
            await add_one(tx)
            await tx.insert("stock", Stock("kettle", 9), id="kettle")

    with pytest.raises(Conflict, match="already one with this _id"):
        await add_twice()

    assert await on_hand(stocked) == 0


async def test_an_error_that_is_caught_does_not_let_the_rest_commit(stocked: Database) -> None:
    async def carry_on() -> None:
        async with stocked.transaction() as tx:
            await add_one(tx)
            try:
                await tx.insert("stock", Stock("kettle", 9), id="kettle")
            except Conflict:
                return

    with pytest.raises(Conflict):
        await carry_on()
    assert await on_hand(stocked) == 0


async def test_a_transaction_that_begins_with_its_write_waits_for_the_document(stocked: Database) -> None:
    async def add() -> None:
        async with stocked.transaction() as tx:
            await add_one(tx)
            await tx.publish("kettle")

    await asyncio.gather(*(add() for _ in range(50)))

    assert await on_hand(stocked) == 50
    assert len(await stocked.journal.outbox(100)) == 50


async def test_two_processes_wait_for_each_other_too(stocked: Database, mongodb_url: str) -> None:
    other = await _opened(mongodb_url)

    async def add(database: Database) -> None:
        for _ in range(10):
            async with database.transaction() as tx:
                await add_one(tx)

    await asyncio.gather(add(stocked), add(other), add(stocked), add(other))
    await other.close()

    assert await on_hand(stocked) == 40


async def test_a_write_after_somebody_elses_is_a_write_conflict_not_a_lost_update(stocked: Database) -> None:
    async def read_then_write() -> None:
        async with stocked.transaction() as slow:
            before = await slow.one(Stock, "stock", {"_id": "kettle"})
            async with stocked.transaction() as quick:
                await add_one(quick)
            await slow.update("stock", {"_id": "kettle"}, {"$set": {"on_hand": before.on_hand + 1}})

    with pytest.raises(WriteConflict):
        await read_then_write()

    assert await on_hand(stocked) == 1


async def test_a_document_held_by_a_dead_process_is_free_again_when_its_transaction_expires(stocked: Database) -> None:
    """Nobody ends the transaction of a killed process but the server, after `transactionLifetimeLimitSeconds`."""
    forgotten = stocked.client.start_session()
    await forgotten.start_transaction()
    await stocked.collection("stock").update_one({"_id": "kettle"}, {"$inc": {"on_hand": 100}}, session=forgotten)

    tries = 0
    while await on_hand(stocked) == 0:
        tries += 1
        try:
            async with stocked.transaction() as tx:
                await add_one(tx)
        except WriteConflict:
            assert tries < 4

    assert await on_hand(stocked) == 1
    await forgotten.end_session()


# readers


async def test_a_reader_sees_one_snapshot_throughout(stocked: Database) -> None:
    async with stocked.reader() as reader:
        first = await reader.one(Stock, "stock", {"_id": "kettle"})
        async with stocked.transaction() as tx:
            await add_one(tx)
        second = await reader.one(Stock, "stock", {"_id": "kettle"})

    assert first == second
    assert await on_hand(stocked) == 1


@pytest.mark.parametrize("how", ["insert", "update", "updated", "replace", "delete", "raw"])
async def test_the_server_refuses_a_readers_writes(stocked: Database, how: str) -> None:
    async with stocked.reader() as reader:
        writes: dict[str, Any] = {
            "insert": lambda: reader.insert("stock", {}),
            "update": lambda: reader.update("stock", {}, {"$set": {"on_hand": 9}}),
            "updated": lambda: reader.updated(Stock, "stock", {}, {"$set": {"on_hand": 9}}),
            "replace": lambda: reader.replace("stock", {}, Stock("kettle", 9), upsert=True),
            "delete": lambda: reader.delete("stock", {}),
            "raw": lambda: reader.collection("stock").insert_many([{}]),
        }
        with pytest.raises(Bug, match="a reader can't write"):
            await writes[how]()

    assert await on_hand(stocked) == 0


# cancellation


async def test_a_cancellation_is_never_lost(stocked: Database) -> None:
    """The driver sends under asyncio.wait_for, which forgets one now and then on Python 3.11."""
    chance = random.Random(7)

    async def write_for_ever() -> None:
        while True:
            async with stocked.transaction() as tx:
                await tx.insert("log", {})

    for _ in range(150):
        task = asyncio.create_task(write_for_ever())
        for _ in range(chance.randrange(40)):
            await asyncio.wait([task], timeout=0)  # one more step of the loop
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done, "it goes on writing"
        assert task.cancelled()


# migrations


def write(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(body)
    return file


async def test_a_database_of_an_older_atoll_gets_the_collections_that_it_lacks(database: Database) -> None:
    await database.collection("atoll_migration").delete_one({"owner": "atoll", "number": 2})
    await database.collection("atoll_answer").drop()

    await database.migrate(None)

    known = await database.collection("atoll_migration").find({"owner": "atoll"}).sort("number").to_list()
    assert [one["name"] for one in known] == ["0001_journal", "0002_answers"]
    assert "at_1" in await database.collection("atoll_answer").index_information()


async def test_an_interrupted_migration_runs_again_from_its_beginning(database: Database, tmp_path: Path) -> None:
    body = """
async def migrate(database):
    await database.collection("runs").insert_one({})
    if await database.collection("runs").count_documents({}) == 1:
        raise BaseException("the process dies")
"""
    write(tmp_path, "0001_runs.py", body)
    with pytest.raises(BaseException, match="the process dies"):
        await database.migrate(tmp_path)

    assert await database.migrate(tmp_path) == ["0001_runs.py"]
    assert await database.migrate(tmp_path) == []
    assert await database.collection("runs").count_documents({}) == 2


async def test_a_migration_may_fill_in_documents_and_publish(database: Database, tmp_path: Path) -> None:
    body = """
async def migrate(database):
    async with database.transaction() as tx:
        await tx.insert("stock", {"_id": "kettle"})
        await tx.publish("kettle")
"""
    write(tmp_path, "0001_stock.py", body)

    await database.migrate(tmp_path)

    assert [row.key for row in await database.journal.outbox(10)] == ["kettle"]


async def test_a_migration_without_its_function_or_with_a_syntax_error_is_named(database: Database, tmp_path: Path) -> None:
    file = write(tmp_path, "0001_stock.py", "def migrate(database): pass\n")
    with pytest.raises(SystemMistake, match=r"0001_stock\.py has no `async def migrate"):
        await database.migrate(tmp_path)

    file.write_text("x = 1\nasync def migrate(database:\n")
    with pytest.raises(SystemMistake, match=r"0001_stock\.py failed") as mistake:
        await database.migrate(tmp_path)
    assert mistake.value.where == f"{file}:2"


async def test_a_migration_that_does_nothing_is_refused_because_it_could_never_be_filled_in(
    database: Database, tmp_path: Path
) -> None:
    write(tmp_path, "0001_stock.py", 'async def migrate(database):\n    """An index."""\n    ...\n')
    with pytest.raises(SystemMistake, match=r"0001_stock\.py does nothing"):
        await database.migrate(tmp_path)

    write(tmp_path, "0001_stock.py", 'async def migrate(database):\n    await database.collection("a").create_index("b")\n')
    assert await database.migrate(tmp_path) == ["0001_stock.py"]


# connections


async def test_refused_credentials_are_an_outage_that_says_so(mongodb_url: str) -> None:
    user, _, rest = mongodb_url.partition("@")
    wrong: Database = open_database(f"{user}wrong@{rest}", lambda key: envelope.encode("a", "b", key, b""))

    with pytest.raises(DatabaseOutage, match="refuses the credentials"):
        await wrong.open()


def test_a_url_without_a_database_is_a_mistake_that_hides_the_password() -> None:
    with pytest.raises(SystemMistake, match="names no database") as mistake:
        open_database("mongodb://catalog:secret@127.0.0.1:1", None)

    assert "secret" not in str(mistake.value)
