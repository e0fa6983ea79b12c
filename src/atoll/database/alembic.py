"""Alembic under atoll's migration lock, with the same refusals as numbered SQL files.

A service's `migrations/env.py` is three lines:

    from atoll.sqlalchemy import run_migrations
    from inventory.models import Base

    run_migrations(Base.metadata)

`run_migrations` serves atoll and the `alembic` command alike: it connects (ATOLL_DATABASE_URL, as `atoll env NAME` prints
it), waits for the lock, keeps autogenerate out of the schema `atoll`, and runs each revision in a transaction of its own,
remembering the file's checksum. A database that knows newer revisions than the folder is left alone, as long as all of the
folder's were applied to it: an older replica runs beside a newer one.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.database.postgresql import MIGRATION_LOCK
from atoll.errors import AtollError, SystemMistake

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory
    from sqlalchemy import Connection, MetaData
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["pending", "revise", "run_migrations", "upgrade"]

_OWNER = "alembic"
_SCHEMA = "atoll"


def upgrade(folder: Path, url: str) -> list[str]:
    """Applies what is pending and gives the file names. Blocks: call it in a thread. Raises SystemMistake naming the file."""
    from alembic import command
    from alembic.util import CommandError

    config = _config(folder, url)
    _one_head(config)
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise SystemMistake(f"alembic: {error}", where=str(folder)) from error
    except AtollError:
        raise
    except Exception as error:
        raise _failed(folder, error) from error
    names: list[str] = config.attributes["applied"]
    return names


async def pending(folder: Path, url: str) -> list[str]:
    """What `upgrade` would apply, by file name. Runs nothing of the folder but its revisions' heads. Raises SystemMistake."""
    from alembic.script import ScriptDirectory

    config = _config(folder, url)
    _one_head(config)
    scripts = ScriptDirectory.from_config(config)
    async with _engine(url).connect() as connection:
        return await connection.run_sync(_pending, scripts)


def _pending(connection: Connection, scripts: ScriptDirectory) -> list[str]:
    from alembic.migration import MigrationContext

    applied = _remembered(connection)
    _check_unchanged(scripts, applied)
    heads = MigrationContext.configure(connection).get_current_heads()
    if _is_ahead(scripts, heads, applied):
        return []
    done = {script.revision for head in heads for script in scripts.iterate_revisions(head, "base")}
    return [Path(script.path).name for script in reversed(list(scripts.walk_revisions())) if script.revision not in done]


def revise(folder: Path, url: str, message: str) -> Path:
    """Writes a new revision: the difference between the database and the metadata. Blocks: call it in a thread."""
    import alembic
    from alembic import command

    template = folder / "script.py.mako"
    if not template.exists():  # what `alembic init` would have put there
        shutil.copyfile(Path(alembic.__file__).parent / "templates" / "generic" / template.name, template)
    (folder / "versions").mkdir(exist_ok=True)
    script = command.revision(_config(folder, url), message, autogenerate=True)
    assert script is not None
    assert not isinstance(script, list)
    return Path(script.path)


def run_migrations(metadata: MetaData | Sequence[MetaData]) -> None:
    """What a service's `env.py` calls, with the metadata of its models."""
    from alembic import context

    options: dict[str, Any] = {
        "target_metadata": metadata,
        "include_schemas": True,
        "include_name": _is_the_services,
        "transaction_per_migration": True,
        "compare_server_default": True,
    }
    if context.is_offline_mode():
        context.configure(dialect_name="postgresql", literal_binds=True, **options)
        context.run_migrations()
        return
    asyncio.run(_run_online(context.config.attributes.get("url") or os.environ.get("ATOLL_DATABASE_URL", ""), options))


async def _run_online(url: str, options: dict[str, Any]) -> None:
    if not url:
        raise SystemMistake(
            "there is no ATOLL_DATABASE_URL to migrate",
            hint='`atoll migrate NAME`, or eval "$(atoll env NAME)" before an alembic command',
        )
    async with _engine(url).connect() as connection:
        await connection.run_sync(_run_locked, options)


def _engine(url: str) -> AsyncEngine:
    """Of one connection, for which nobody is in a hurry."""
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    from atoll.database.postgresql_pool import connect

    async def plain_connect() -> Any:
        return await connect(url, {"statement_timeout": "0", "lock_timeout": "0"})

    return create_async_engine("postgresql+asyncpg://", async_creator=plain_connect, poolclass=NullPool)


def _run_locked(connection: Connection, options: dict[str, Any]) -> None:
    """The lock belongs to the connection, so a process that dies gives it back."""
    from alembic import context
    from sqlalchemy import text

    connection.execute(text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
    connection.commit()
    scripts, applied = context.script, _remembered(connection)
    connection.commit()
    _check_unchanged(scripts, applied)

    def remember(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
        if step.is_upgrade:
            for script in step.up_revisions:
                _remember(ctx.connection, script)
                context.config.attributes.setdefault("applied", []).append(Path(script.path).name)

    context.configure(connection=connection, on_version_apply=remember, **options)
    if _is_ahead(scripts, context.get_context().get_current_heads(), applied):
        return
    connection.commit()
    context.run_migrations()


def _is_the_services(name: str | None, kind: str, parents: Any) -> bool:
    """Keeps autogenerate out of atoll's schema."""
    return not (kind == "schema" and name == _SCHEMA)


def _config(folder: Path, url: str) -> Config:
    from alembic.config import Config

    config = Config(attributes={"url": url, "applied": []})
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


def _one_head(config: Config) -> None:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(config)
    heads = [Path(script.path).name for script in map(scripts.get_revision, scripts.get_heads()) if script]
    if len(heads) > 1:
        raise SystemMistake(
            f"two migrations follow the same one: {' and '.join(sorted(heads))}",
            where=scripts.dir,
            hint="set `down_revision` of the one that was never applied to the other",
        )


def _remembered(connection: Connection) -> dict[str, tuple[str, str]]:
    """File name and checksum by revision, as they were applied. None without atoll's tables: a plain `alembic` came first."""
    from sqlalchemy import text

    if not connection.scalar(text("SELECT to_regclass('atoll.migration') IS NOT NULL")):
        return {}
    rows = connection.execute(text("SELECT name, checksum FROM atoll.migration WHERE owner = :owner"), {"owner": _OWNER})
    return {revision: (name, checksum) for revision, _, name, checksum in ((*row[0].partition(" "), row[1]) for row in rows)}


def _remember(connection: Connection, script: Script) -> None:
    from sqlalchemy import text

    if not connection.scalar(text("SELECT to_regclass('atoll.migration') IS NOT NULL")):
        return
    path = Path(script.path)
    connection.execute(
        text(
            """INSERT INTO atoll.migration (owner, number, name, checksum, finished)
            SELECT :owner, coalesce(max(number), 0) + 1, :name, :checksum, true
            FROM atoll.migration WHERE owner = :owner"""
        ),
        {"owner": _OWNER, "name": f"{script.revision} {path.name}", "checksum": _checksum(path)},
    )


def _check_unchanged(scripts: ScriptDirectory, applied: dict[str, tuple[str, str]]) -> None:
    for script in scripts.walk_revisions():
        path = Path(script.path)
        if script.revision in applied and applied[script.revision][1] != _checksum(path):
            raise SystemMistake(
                f"migration {path.name} was edited after it was applied",
                where=str(path),
                hint="restore its text; a new change is a new revision",
            )


def _is_ahead(scripts: ScriptDirectory, heads: Sequence[str], applied: dict[str, tuple[str, str]]) -> bool:
    """True when the database knows newer revisions. Raises SystemMistake for one that the folder should have."""
    known = {script.revision for script in scripts.walk_revisions()}
    unknown = [head for head in heads if head not in known]
    if not unknown:
        return False
    if known <= applied.keys():
        return True
    name = applied.get(unknown[0], (unknown[0], ""))[0]
    raise SystemMistake(
        f"migration {name} was applied to this database and is missing",
        where=scripts.versions,
        hint=f"restore {name}; a new change is a new revision that follows it",
    )


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()[:32]


def _failed(folder: Path, error: Exception) -> SystemMistake:
    """Names the file and line of the folder that the error passed through last."""
    inside = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(folder)]
    where = f"{inside[-1].filename}:{inside[-1].lineno}" if inside else str(folder)
    name = Path(inside[-1].filename).name if inside else folder.name
    return SystemMistake(
        f"migration {name} failed: {error}",
        where=where,
        hint="nothing of this file was applied; correct it and start again",
    )
