"""`atoll migrate NAME`: a service's migrations, applied or begun."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click

from atoll.cli.here import Here, here
from atoll.errors import SystemMistake

__all__ = ["command"]

_NUMBERED = re.compile(r"(\d{4})_.*\.(sql|py)")


@click.command()
@click.argument("name")
@click.option("--new", metavar="WHAT", help="Begin a migration: an empty file with the next number and this name.")
@here
def command(here: Here, name: str, new: str | None) -> None:
    """Apply NAME's pending migrations now (a service also does so at its start).

    Where the service's migrations are Alembic's, --new writes the revision that its models ask for.
    """
    folder = here.system.service(name).folder / "migrations"
    alembic = (folder / "env.py").exists()
    if new is not None and not alembic:
        click.echo(_begin(folder, new))
        return
    lent = here.ask({"do": "env", "name": name})
    interpreter = [lent["argv"][0], "-P", "-m", "atoll.service.migrate", *(["--new", new] if new else [])]
    done = subprocess.run(interpreter, cwd=lent["folder"], env=lent["environment"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemMistake(f"{name} was not migrated: {(done.stderr or done.stdout).strip()}")
    click.echo(done.stdout.strip())


def _begin(folder: Path, what: str) -> Path:
    """0003_add_index.sql after 0002_….sql; of the kind that the folder has already."""
    found = [match for path in folder.glob("*") if (match := _NUMBERED.fullmatch(path.name))]
    number = max((int(match[1]) for match in found), default=0) + 1
    kind = found[-1][2] if found else "sql"
    path = folder / f"{number:04d}_{re.sub(r'[^a-z0-9]+', '_', what.lower()).strip('_')}.{kind}"
    folder.mkdir(exist_ok=True)
    path.write_text('"""…"""\n\n\nasync def migrate(database):\n    ...\n' if kind == "py" else "", "utf-8")
    return path
