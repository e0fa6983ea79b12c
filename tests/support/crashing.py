"""A process that uses a database and dies by kill -9: `python -m tests.support.crashing CASE KIND URL`."""

from __future__ import annotations

import asyncio
import sys

from atoll.database.ports import Database
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


CASES = {case.__name__: case for case in (in_the_middle, before_commit, attempting, under_load)}


async def main(case: str, name: str, url: str) -> None:
    kind = kind_of(name, url)
    database = kind.database()
    await database.open()
    await CASES[case](kind, database)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
