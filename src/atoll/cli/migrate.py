"""`atoll migrate NAME`: a service's migrations, applied or begun."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atoll.cli.here import Here, aside, here, json_option
from atoll.errors import SystemMistake

if TYPE_CHECKING:
    from atoll.system.manifest import ServiceSpec

__all__ = ["command"]

_NUMBERED = re.compile(r"(\d{4})_.*\.(sql|py)")
_MOST_LETTERS = 60
_SQL = """\
-- Statements for {service}'s database, in one transaction. Once this file was applied, a further change is a further file.
-- {what}
"""
_PYTHON = '''\
"""{what}"""

from __future__ import annotations

from atoll.mongodb import Database


async def migrate(database: Database) -> None:
    """After a crash it runs again from its beginning, so each step may be done twice:

    await database.collection("product").create_index("name")
    """
'''


@click.command()
@click.argument("name")
@click.option("--new", metavar="WHAT", help="Begin a migration: a file with the next number and this name, for you to write.")
@json_option
@here
def command(here: Here, name: str, new: str | None, as_json: bool) -> None:
    """Apply NAME's pending migrations now (a service also does so at its start).

    Where the environment is there already (ATOLL_SERVICE, ATOLL_DATABASE_URL), as in a container, it asks nobody.
    Where the service's migrations are Alembic's, --new writes the revision that its models ask for.
    """
    if new is None and _told(name):
        _say(name, _own(name), as_json)
        return
    spec = here.system.service(name)
    if spec.command or spec.kind == "simulator":
        raise SystemMistake(f"{name} is not a service of atoll's and has no migrations", where=spec.where)
    slug = None if new is None else _slug(new)
    if slug is None or (spec.folder / "migrations" / "env.py").exists():
        done = _ask(here, name, [] if new is None else ["--new", new])
    else:
        done = [str(_begin(spec, _kind(here, spec), (new or "", slug)))]
    if new is None:
        _say(name, done, as_json)
    else:
        click.echo(json.dumps({"service": name, "files": done}, indent=2) if as_json else "\n".join(done))


def _say(name: str, applied: list[str], as_json: bool) -> None:
    found = json.dumps({"service": name, "applied": applied}, indent=2)
    click.echo(found if as_json else "\n".join(applied) or "nothing to apply")


def _told(name: str) -> bool:
    """Whether this process is told all that the service would be."""
    from atoll.system.variables import with_files

    return os.environ.get("ATOLL_SERVICE") == name and bool(with_files(os.environ).get("ATOLL_DATABASE_URL"))


def _own(name: str) -> list[str]:
    from atoll.service.migrate import migrate
    from atoll.system.auth import AUTH_MODULE
    from atoll.system.plan import AUTH

    return asyncio.run(migrate(AUTH_MODULE if name == AUTH else ""))


def _ask(here: Here, name: str, arguments: list[str]) -> list[str]:
    """What the service's own interpreter applied or wrote."""
    lent = here.ask({"do": "env", "name": name})
    interpreter = [lent["argv"][0], "-P", "-m", "atoll.service.migrate", *arguments]
    done = subprocess.run(interpreter, cwd=lent["folder"], env=lent["environment"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemMistake(f"{name} was not migrated: {(done.stderr or done.stdout).strip()}")
    return [line for line in done.stdout.splitlines() if line and line != "nothing to apply"]


def _slug(what: str) -> str:
    """`add_an_index` of `Add an index!`. Raises BadParameter where nothing sensible is left."""
    slug = re.sub(r"[^a-z0-9]+", "_", what.lower()).strip("_")
    if not slug or not what.isascii() or not what.isprintable() or "/" in what or "\\" in what or len(slug) > _MOST_LETTERS:
        reason = f"say in up to {_MOST_LETTERS} letters a-z and digits what changes, like 'add an index'"
        raise click.BadParameter(f"{what!r} names no migration: {reason}", param_hint="'--new'")
    return slug


def _kind(here: Here, spec: ServiceSpec) -> str:
    """`sql` or `py`, as the service's database wants it. Raises SystemMistake when it has none."""
    from atoll.host.contracts import Deriver

    with tempfile.TemporaryDirectory(prefix="atoll-") as folder:
        contract = asyncio.run(Deriver(here.system, Path(folder), dict(os.environ), aside).contract(spec))
    if contract.database is None:
        raise SystemMistake(f"{spec.name} has no database", where=spec.where, hint="`Service(…, database=…)` gives it one")
    return "py" if contract.database == "mongodb" else "sql"


def _begin(spec: ServiceSpec, kind: str, name: tuple[str, str]) -> Path:
    """0003_add_index.sql after 0002_….sql. What it says by itself is refused as an empty migration."""
    what, slug = name
    folder = spec.folder / "migrations"
    found = [int(match[1]) for path in folder.glob("*") if (match := _NUMBERED.fullmatch(path.name))]
    path = folder / f"{max(found, default=0) + 1:04d}_{slug}.{kind}"
    folder.mkdir(exist_ok=True)
    text = (_PYTHON if kind == "py" else _SQL).format(what=what.replace('"', "'"), service=spec.name)
    path.write_text(text, "utf-8")
    return path
