"""Numbered migrations for MongoDB: `migrations/0001_products.py` with `async def migrate(database)`.

`database` is the service's `atoll.mongodb.Database`: `database.collection(name).create_index(…)`, or a transaction that fills
in documents and publishes. MongoDB builds no index inside a transaction, so a migration must be re-runnable: it is recorded
as started, then as finished, and one that was interrupted runs again from its beginning.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import inspect
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from msgspec.structs import replace

from atoll.database import migrations
from atoll.database.migrations import Applied, Migration
from atoll.database.mongodb_driver import answered, outages
from atoll.database.mongodb_journal import prepare
from atoll.errors import Outage, SystemMistake

if TYPE_CHECKING:
    from atoll.database.mongodb import Database

__all__ = ["migrate", "pending"]

_LOCK_S = 10.0
_PAUSE_S = 0.05
_OWN = ("0001_journal", "0002_answers")


async def migrate(database: Database, folder: Path | None) -> list[str]:
    """Runs what is pending; gives the service's own by name. Raises SystemMistake that names the file."""
    files = _files(folder)
    with outages():
        if not await _names(database, files):
            return []
        async with _lock(database):
            if not await _prepared(database):
                await prepare(database)
                for number, name in enumerate(_OWN, start=1):
                    await _record(database, migrations.ATOLL, Applied(number, name, name))
            return [await _run(database, file) for file in await _pending_files(database, files)]


async def pending(database: Database, folder: Path | None) -> list[str]:
    """What `migrate` would run, atoll's own too. Raises SystemMistake that names the file."""
    with outages():
        return await _names(database, _files(folder))


def _files(folder: Path | None) -> list[Migration]:
    return [replace(file, transactional=False) for file in migrations.read(folder, ".py")]


async def _names(database: Database, files: list[Migration]) -> list[str]:
    own = [] if await _prepared(database) else _OWN
    return [*own, *(file.name for file in await _pending_files(database, files))]


async def _prepared(database: Database) -> bool:
    return len(await _applied(database, migrations.ATOLL)) >= len(_OWN)


async def _pending_files(database: Database, files: list[Migration]) -> list[Migration]:
    return migrations.pending(files, await _applied(database, migrations.SERVICE))


async def _applied(database: Database, owner: str) -> dict[int, Applied]:
    found = await database.collection("atoll_migration").find({"owner": owner}).to_list()
    return {row["number"]: Applied(row["number"], row["name"], row["checksum"], row["finished"]) for row in found}


async def _record(database: Database, owner: str, done: Applied) -> None:
    row = {"owner": owner, "number": done.number, "name": done.name, "checksum": done.checksum, "finished": done.finished}
    await database.collection("atoll_migration").update_one(
        {"_id": f"{owner} {done.number:04}"}, {"$set": row, "$currentDate": {"at": True}}, upsert=True
    )


async def _run(database: Database, file: Migration) -> str:
    work = _load(file)
    started = Applied(file.number, file.name, file.checksum, finished=False)
    await _record(database, migrations.SERVICE, started)
    try:
        await work(database)
    except Outage:
        raise
    except Exception as error:
        raise migrations.failed(file, error, _line(file, error)) from error
    await _record(database, migrations.SERVICE, replace(started, finished=True))
    return file.name


def _load(file: Migration) -> Callable[[Any], Awaitable[None]]:
    spec = importlib.util.spec_from_file_location(f"atoll_migration_{file.path.stem}", file.path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise migrations.failed(file, error, _line(file, error)) from error
    work = getattr(module, "migrate", None)
    if not inspect.iscoroutinefunction(work):
        raise SystemMistake(
            f"migration {file.name} has no `async def migrate(database)`",
            where=str(file.path),
            hint="database is the service's atoll.mongodb.Database",
        )
    if not _does_something(file):
        hint = "write it, or remove the file"
        raise SystemMistake(f"migration {file.name} does nothing", where=str(file.path), hint=hint)
    return work


def _does_something(file: Migration) -> bool:
    """An empty one would count as applied, and could never be filled in."""
    functions = [one for one in ast.parse(file.text).body if isinstance(one, ast.AsyncFunctionDef) and one.name == "migrate"]
    idle = [all(isinstance(step, ast.Pass) or _is_constant(step) for step in one.body) for one in functions]
    return not any(idle)


def _is_constant(step: ast.stmt) -> bool:
    """A docstring, or `...`."""
    return isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant)


def _line(file: Migration, error: Exception) -> int | None:
    """The last line of the file that the error passed through."""
    if isinstance(error, SyntaxError):
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file.path)]
    return lines[-1] if lines else None


@contextlib.asynccontextmanager
async def _lock(database: Database) -> AsyncIterator[None]:
    """One process migrates at a time. The lock is renewed while it is held and free 10 s after its holder died."""
    owner = str(uuid4())
    while True:
        if await _take(database, owner):
            break
        await asyncio.sleep(_PAUSE_S)
    renewal = asyncio.create_task(_keep(database, owner))
    try:
        yield
    finally:
        renewal.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewal
        await database.collection("atoll_lock").delete_one({"_id": "migration", "owner": owner})


@answered
async def _take(database: Database, owner: str) -> bool:
    from pymongo.errors import DuplicateKeyError

    locks = database.collection("atoll_lock")
    until = {"$add": ["$$NOW", int(_LOCK_S * 1000)]}
    await locks.delete_one({"_id": "migration", "$expr": {"$lt": ["$until", "$$NOW"]}})
    try:
        # matches only our own: somebody else's makes the upsert collide with its `_id`
        await locks.update_one({"_id": "migration", "owner": owner}, [{"$set": {"until": until}}], upsert=True)
    except DuplicateKeyError:
        return False
    return True


async def _keep(database: Database, owner: str) -> None:
    while True:
        await asyncio.sleep(_LOCK_S / 3)
        await _take(database, owner)
