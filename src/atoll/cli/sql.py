"""`atoll sql NAME`: a shell on a service's own database."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from atoll.cli.here import Here, here
from atoll.errors import AtollError, EngineOutage, SystemMistake

__all__ = ["command"]

Rows = tuple[Sequence[str], Sequence[Sequence[Any]]]
_SHELLS = {"sqlite": "sqlite3", "postgresql": "psql", "mongodb": "mongosh"}


@click.command()
@click.argument("name")
@click.option("-c", "statement", help="Run this one statement and print what it gives.")
@here
def command(here: Here, name: str, statement: str | None) -> None:
    """psql, sqlite3 or mongosh on NAME's database with NAME's own rights; a small SQL shell where none is installed."""
    url: str = here.ask({"do": "env", "name": name})["environment"].get("ATOLL_DATABASE_URL", "")
    if not url:
        raise SystemMistake(f"{name} has no database")
    kind = url.partition(":")[0]
    shell = shutil.which(_SHELLS[kind])
    if shell is not None and (statement is None or kind == "mongodb"):
        sys.stdout.flush()
        wanted = ["--eval", statement] if statement is not None else []
        os.execv(shell, [shell, url.removeprefix("sqlite://") if kind == "sqlite" else url, *wanted])
    if kind == "mongodb":
        raise SystemMistake("mongosh is not on PATH", hint=f"connect any MongoDB client to {url}")
    run = _sqlite(url) if kind == "sqlite" else _postgresql(url)
    if statement is not None:
        _show(run(statement))
    else:
        _converse(run)


def _sqlite(url: str) -> Callable[[str], Rows]:
    connection = sqlite3.connect(url.removeprefix("sqlite://"), isolation_level=None)

    def run(statement: str) -> Rows:
        try:
            cursor = connection.execute(statement)
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise SystemMistake(str(error)) from None
        return [column[0] for column in cursor.description or ()], cursor.fetchall()

    return run


def _postgresql(url: str) -> Callable[[str], Rows]:
    import asyncpg

    async def ask(statement: str) -> Rows:
        try:
            connection = await asyncpg.connect(url)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise EngineOutage(f"the database can't be reached: {error}", hint="`atoll ps` shows what runs") from None
        try:
            rows = await connection.fetch(statement)
            return (list(rows[0].keys()) if rows else []), [list(row.values()) for row in rows]
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise SystemMistake(str(error)) from None
        finally:
            await connection.close()

    return lambda statement: asyncio.run(ask(statement))


def _converse(run: Callable[[str], Rows]) -> None:
    """One statement a line, until Ctrl-D."""
    while True:
        try:
            statement = click.prompt("sql", prompt_suffix="> ")
        except click.Abort:
            return
        try:
            _show(run(statement))
        except AtollError as error:
            click.echo(str(error), err=True)


def _show(rows: Rows) -> None:
    names, found = rows
    if names:
        click.echo("\t".join(names))
    for row in found:
        click.echo("\t".join("" if value is None else str(value) for value in row))
