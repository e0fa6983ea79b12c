"""A fresh, migrated database of a service's own kind for each test, copied from a template where the kind can copy."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from atoll.service.service import Service
from atoll.service.storage import database_of, migrations_of

__all__ = ["fresh_database"]

_templates: dict[tuple[str, str, Path | None], str] = {}


@asynccontextmanager
async def fresh_database(service: Service, folder: Path | None) -> AsyncIterator[Any]:
    """Open and migrated; removed at the end. None for a service without one."""
    match service.database:
        case None:
            yield None
        case "sqlite":
            with _sqlite_copy(await _sqlite_template(service, folder)) as url:
                async with _opened(service, url) as database:
                    yield database
        case "postgresql":
            async with _postgresql_copy(service, folder) as url, _opened(service, url) as database:
                yield database
        case "mongodb":
            async with _opened(service, await _mongodb_url(service)) as database:
                await database.migrate(_migrations(service, folder))
                yield database


@asynccontextmanager
async def _opened(service: Service, url: str) -> AsyncIterator[Any]:
    database = database_of(service, url)
    assert database is not None
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def _migrate(service: Service, url: str, folder: Path | None) -> None:
    async with _opened(service, url) as database:
        await database.migrate(_migrations(service, folder))


def _migrations(service: Service, folder: Path | None) -> Path | None:
    if folder is None or service.database is None:
        return None
    found = migrations_of(folder, service.database)
    return found if found.is_dir() else None


def _key(service: Service, folder: Path | None) -> tuple[str, str, Path | None]:
    return service.name, str(service.flavour), folder


async def _sqlite_template(service: Service, folder: Path | None) -> Path:
    key = _key(service, folder)
    if key not in _templates:
        place = Path(_scratch()) / f"{service.name}-{secrets.token_hex(4)}.sqlite"
        await _migrate(service, f"sqlite://{place}", folder)
        _templates[key] = str(place)
    return Path(_templates[key])


@contextmanager
def _sqlite_copy(template: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="atoll-test-") as place:
        for part in template.parent.glob(f"{template.name}*"):
            shutil.copyfile(part, Path(place) / part.name)
        yield f"sqlite://{place}/{template.name}"


_scratch_folder: tempfile.TemporaryDirectory[str] | None = None


def _scratch() -> str:
    """Where templates lie; removed when the run ends."""
    global _scratch_folder
    if _scratch_folder is None:
        _scratch_folder = tempfile.TemporaryDirectory(prefix="atoll-test-", ignore_cleanup_errors=True)
    return _scratch_folder.name


@asynccontextmanager
async def _postgresql_copy(service: Service, folder: Path | None) -> AsyncIterator[str]:
    from atoll.testing.servers import postgresql

    server = await asyncio.to_thread(postgresql)
    key = _key(service, folder)
    if key not in _templates:
        name = f"{service.name}_{secrets.token_hex(4)}"
        await _migrate(service, await asyncio.to_thread(server.template, name), folder)
        _templates[key] = name
    url, remove = await asyncio.to_thread(server.copy, _templates[key])
    try:
        yield url
    finally:
        await asyncio.to_thread(remove)


async def _mongodb_url(service: Service) -> str:
    from atoll.testing.servers import mongod

    server = await asyncio.to_thread(mongod)
    return await asyncio.to_thread(server.database, f"{service.name}_{secrets.token_hex(4)}")
