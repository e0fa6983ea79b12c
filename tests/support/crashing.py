"""A process that uses a database and dies by kill -9: `python -m tests.support.crashing CASE KIND URL`."""

from __future__ import annotations

import asyncio
import sys

from atoll.database.ports import Database, Kept
from tests.support.kinds import Kind, Told, die, kind_of


async def in_the_middle(kind: Kind, database: Database) -> None:
    """After a statement and an event, before the end of the transaction."""
    async with database.transaction() as tx:
        await kind.insert(tx, "a", 1)
        await tx.publish(Told("a", 1))
        die()


async def before_commit(kind: Kind, database: Database) -> None:
    """After the outbox rows were written."""
    await kind.die_before_commit(database)
    async with database.transaction() as tx:
        await kind.insert(tx, "a", 1)
        await tx.publish(Told("a", 1))


async def attempting(kind: Kind, database: Database) -> None:
    """After the attempt of an event began."""
    await database.journal.begin_attempt("orders", "e1")
    die()


async def answering(kind: Kind, database: Database) -> None:
    """After an id was claimed and the change was made, before the answer is kept."""
    async with database.transaction(patient=True) as tx:
        await database.journal.claim(tx, "k1")
        await kind.insert(tx, "a", 1)
        die()


async def answered(kind: Kind, database: Database) -> None:
    """After the commit of the change and its answer, before anybody was told."""
    async with database.transaction(patient=True) as tx:
        await database.journal.claim(tx, "k1")
        await kind.insert(tx, "a", 1)
        headers = b'[["content-type","application/json"]]'
        await database.journal.keep(tx, "k1", Kept(b"fingerprint", 201, headers, b'{"id":1}\xff'))
    die()


async def under_load(kind: Kind, database: Database) -> None:
    """Says each row it has committed, and never ends."""

    async def work(key: str) -> None:
        for n in range(1, 1_000_000):
            async with database.transaction() as tx:
                await kind.insert(tx, key, n)
                await tx.publish(Told(key, n))
            sys.stdout.write(f"{key} {n}\n")
            sys.stdout.flush()

    await asyncio.gather(*(work(key) for key in "abcdefgh"))


CASES = {case.__name__: case for case in (in_the_middle, before_commit, attempting, answering, answered, under_load)}


async def main(case: str, name: str, url: str) -> None:
    kind = kind_of(name, url)
    database = kind.database()
    await database.open()
    await CASES[case](kind, database)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
