"""`python -m atoll.service.migrate [--new WHAT]`: a service's migrations, with its own interpreter, and nothing else."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from atoll.errors import AtollError, SystemMistake
from atoll.service.__main__ import load
from atoll.service.storage import database_of, migrations_of
from atoll.system.variables import with_files

__all__ = ["main"]


def main() -> int:
    try:
        done = asyncio.run(_revise(sys.argv[2]) if sys.argv[1:2] == ["--new"] else _migrate())
    except AtollError as error:
        print(error, file=sys.stderr)  # noqa: T201  # a program's message
        return 2
    print("\n".join(done) or "nothing to apply")  # noqa: T201
    return 0


async def _migrate() -> list[str]:
    service = load()
    database = database_of(service, with_files(os.environ).get("ATOLL_DATABASE_URL", ""))
    if database is None:
        raise SystemMistake(f"{service.name} has no database")
    await database.open()
    try:
        return await database.migrate(migrations_of(Path(os.environ.get("ATOLL_FOLDER", ".")), database.kind))
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
