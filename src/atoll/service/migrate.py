"""`python -m atoll.service.migrate`: applies a service's migrations with its own interpreter, and nothing else."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from atoll.errors import AtollError, SystemMistake
from atoll.service.__main__ import load
from atoll.service.storage import database_of, migrations_of

__all__ = ["main"]


def main() -> int:
    try:
        applied = asyncio.run(_migrate())
    except AtollError as error:
        print(error, file=sys.stderr)  # noqa: T201  # a program's message
        return 2
    print("\n".join(applied) or "nothing to apply")  # noqa: T201
    return 0


async def _migrate() -> list[str]:
    service = load()
    database = database_of(service, os.environ.get("ATOLL_DATABASE_URL", ""))
    if database is None:
        raise SystemMistake(f"{service.name} has no database")
    await database.open()
    try:
        return await database.migrate(migrations_of(Path(os.environ.get("ATOLL_FOLDER", ".")), database.kind))
    finally:
        await database.close()


if __name__ == "__main__":
    sys.exit(main())
