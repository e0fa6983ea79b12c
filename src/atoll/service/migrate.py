"""`python -m atoll.service.migrate [--new WHAT]`: a service's migrations, with its own interpreter, and nothing else."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.errors import AtollError, SystemMistake
from atoll.service.__main__ import load
from atoll.service.storage import database_of, migrations_of
from atoll.system.variables import with_files

if TYPE_CHECKING:
    from atoll.database.ports import Database

__all__ = ["main", "migrate", "pending"]


def main() -> int:
    try:
        done = asyncio.run(_revise(sys.argv[2]) if sys.argv[1:2] == ["--new"] else migrate())
    except AtollError as error:
        print(error, file=sys.stderr)  # noqa: T201  # a program's message
        return 2
    print("\n".join(done) or "nothing to apply")  # noqa: T201
    return 0


async def migrate(module: str = "") -> list[str]:
    """What was applied, by file name. Raises SystemMistake, DatabaseOutage."""
    async with _opened(module) as (database, folder):
        return await database.migrate(folder)


async def pending(module: str = "") -> list[str]:
    """What is still to be applied, by file name. Raises SystemMistake, DatabaseOutage."""
    async with _opened(module) as (database, folder):
        return await database.pending(folder)


@asynccontextmanager
async def _opened(module: str) -> AsyncIterator[tuple[Database, Path]]:
    """The service's database and its migrations. `module`: another one than <ATOLL_SERVICE>.service."""
    service = load(module)
    database = database_of(service, with_files(os.environ).get("ATOLL_DATABASE_URL", ""))
    if database is None:
        raise SystemMistake(f"{service.name} has no database")
    await database.open()
    try:
        yield database, migrations_of(Path(os.environ.get("ATOLL_FOLDER", ".")), database.kind)
    finally:
        await database.close()


async def _revise(what: str) -> list[str]:
    """Alembic's revision file for what the models ask for and the database has not."""
    from atoll.database.alembic import revise

    folder = Path(os.environ.get("ATOLL_FOLDER", ".")) / "migrations"
    load()  # its models have to be importable, as env.py imports them
    return [str(await asyncio.to_thread(revise, folder, os.environ.get("ATOLL_DATABASE_URL", ""), what))]


if __name__ == "__main__":
    sys.exit(main())
