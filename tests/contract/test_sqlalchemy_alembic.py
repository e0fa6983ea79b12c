"""Alembic under atoll's lock: autogenerate leaves atoll's tables alone, refusals name the file, two processes take turns."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from atoll.database import alembic, open_database
from atoll.database.ports import Database
from atoll.database.statements import publishes_nothing
from atoll.errors import SystemMistake

MODELS = """
from sqlalchemy import MetaData, Table, Column, Text, Integer, Numeric, text

metadata = MetaData()
stock = Table(
    "stock", metadata,
    Column("sku", Text, primary_key=True),
    Column("on_hand", Integer, nullable=False, server_default=text("0")),
    Column("price", Numeric(12, 2)),
)
reports = Table("daily", metadata, Column("day", Text, primary_key=True), schema="reporting")
"""
ENV = """
from atoll.sqlalchemy import run_migrations
from warehouse_models import metadata

run_migrations(metadata)
"""
REVISION = '''"""{name}"""
from alembic import op
import sqlalchemy as sa

revision = "{revision}"
down_revision = {before!r}
branch_labels = depends_on = None


def upgrade():
    {body}


def downgrade():
    pass
'''
STOCK = """op.create_table("stock", sa.Column("sku", sa.Text, primary_key=True),
        sa.Column("on_hand", sa.Integer, nullable=False, server_default=sa.text("0")), sa.Column("price", sa.Numeric(12, 2)))
    op.execute("CREATE SCHEMA reporting")
    op.create_table("daily", sa.Column("day", sa.Text, primary_key=True), schema="reporting")"""
COLOUR = 'op.add_column("stock", sa.Column("colour", sa.Text))'


class Folder:
    """A service's `migrations/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "versions").mkdir(parents=True)
        (path / "env.py").write_text(ENV)
        (path.parent / "warehouse_models.py").write_text(MODELS)
        template = files("alembic") / "templates/generic/script.py.mako"
        (path / "script.py.mako").write_text(template.read_text())

    def add(self, revision: str, before: str | None, body: str) -> Path:
        file = self.path / "versions" / f"{revision}_change.py"
        file.write_text(REVISION.format(name=revision, revision=revision, before=before, body=body))
        return file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "warehouse_models", raising=False)
    folder = Folder(tmp_path / "migrations")
    folder.add("0001", None, STOCK)
    return folder


def _encode(event: Any) -> Any:
    raise publishes_nothing()


@pytest.fixture
async def database(postgresql_url: str) -> AsyncIterator[Database]:
    database: Database = open_database(postgresql_url, _encode, sqlalchemy=True)
    await database.open()
    yield database
    await database.close()


async def test_revisions_are_applied_once_in_order_and_named(database: Database, folder: Folder) -> None:
    folder.add("0002", "0001", COLOUR)

    assert await database.migrate(folder.path) == ["0001_change.py", "0002_change.py"]
    assert await database.migrate(folder.path) == []
    async with database.reader() as session:
        assert (await session.fetch("SELECT sku, colour FROM stock"))[1] == []


async def test_autogenerate_proposes_nothing_for_our_tables(database: Database, folder: Folder, postgresql_url: str) -> None:
    await database.migrate(folder.path)

    written = await asyncio.to_thread(alembic.revise, folder.path, postgresql_url, "nothing")

    upgrade = written.read_text().partition("def upgrade()")[2].partition("def downgrade()")[0]
    assert "pass" in upgrade
    assert "op." not in upgrade


async def test_autogenerate_proposes_what_the_models_have_gained(
    database: Database, folder: Folder, postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.migrate(folder.path)
    (tmp_path / "warehouse_models.py").write_text(
        MODELS.replace('Column("price"', 'Column("weight_g", Integer), Column("price"')
    )
    monkeypatch.delitem(sys.modules, "warehouse_models")

    written = await asyncio.to_thread(alembic.revise, folder.path, postgresql_url, "weight")

    assert "op.add_column('stock', sa.Column('weight_g'" in written.read_text()
    assert written.read_text().count("op.") == 2  # up and down
    assert await database.migrate(folder.path) == [written.name]


async def test_an_edited_revision_is_refused_by_name(database: Database, folder: Folder) -> None:
    file = folder.add("0002", "0001", COLOUR)
    await database.migrate(folder.path)
    file.write_text(file.read_text().replace("colour", "color"))

    with pytest.raises(SystemMistake, match=r"0002_change\.py was edited after it was applied"):
        await database.migrate(folder.path)


async def test_a_revision_that_was_applied_and_is_missing_is_refused_by_name(database: Database, folder: Folder) -> None:
    file = folder.add("0002", "0001", COLOUR)
    await database.migrate(folder.path)
    file.unlink()
    folder.add("0003", "0001", 'op.execute("SELECT 1")')

    with pytest.raises(SystemMistake, match=r"0002_change\.py was applied to this database and is missing"):
        await database.migrate(folder.path)


async def test_an_older_replica_leaves_a_newer_database_alone(database: Database, folder: Folder) -> None:
    newer = folder.add("0002", "0001", COLOUR)
    await database.migrate(folder.path)
    newer.unlink()

    assert await database.migrate(folder.path) == []


async def test_two_revisions_that_follow_the_same_one_are_refused_by_name(database: Database, folder: Folder) -> None:
    folder.add("0002", "0001", COLOUR)
    folder.add("000b", "0001", COLOUR)

    with pytest.raises(SystemMistake, match=r"0002_change\.py and 000b_change\.py"):
        await database.migrate(folder.path)


async def test_a_failing_revision_is_named_with_its_line_and_applies_nothing_of_itself(
    database: Database, folder: Folder
) -> None:
    broken = folder.add("0002", "0001", COLOUR + '\n    op.execute("SELECT * FROM nowhere")')

    with pytest.raises(SystemMistake, match=r"0002_change\.py failed") as mistake:
        await database.migrate(folder.path)
    assert mistake.value.where.startswith(f"{broken}:")

    broken.write_text(REVISION.format(name="0002", revision="0002", before="0001", body=COLOUR))
    assert await database.migrate(folder.path) == ["0002_change.py"]


async def test_what_is_pending_is_told_by_name_until_it_is_applied(database: Database, folder: Folder) -> None:
    folder.add("0001", None, STOCK)
    assert (await database.pending(folder.path))[-1] == "0001_change.py"
    await database.migrate(folder.path)
    assert await database.pending(folder.path) == []
    second = folder.add("0002", "0001", COLOUR)
    assert await database.pending(folder.path) == ["0002_change.py"]
    await database.migrate(folder.path)
    second.unlink()
    assert await database.pending(folder.path) == [], "an older replica beside a newer one"


async def test_processes_that_migrate_at_once_take_turns(postgresql_url: str, folder: Folder) -> None:
    folder.add("0002", "0001", COLOUR)
    databases = [open_database(postgresql_url, _encode, sqlalchemy=True) for _ in range(3)]
    program = "import sys, asyncio\nfrom pathlib import Path\nfrom atoll.database import open_database\n"
    program += "async def main():\n    d = open_database(sys.argv[1], None, sqlalchemy=True)\n    await d.open()\n"
    program += "    print(','.join(await d.migrate(Path(sys.argv[2]))))\n    await d.close()\nasyncio.run(main())"
    environment = {**os.environ, "PYTHONPATH": str(folder.path.parent)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, postgresql_url, str(folder.path)],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for _ in databases
    ]

    said = await asyncio.to_thread(lambda: [process.communicate(timeout=60)[0].strip() for process in started])

    assert sorted(said) == ["", "", "0001_change.py,0002_change.py"]


async def test_the_alembic_command_works_with_the_services_environment(
    database: Database, folder: Folder, postgresql_url: str
) -> None:
    await database.migrate(folder.path)
    (folder.path.parent / "alembic.ini").write_text(f"[alembic]\nscript_location = {folder.path}\n")
    environment = {**os.environ, "ATOLL_DATABASE_URL": postgresql_url, "PYTHONPATH": str(folder.path.parent)}

    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "alembic", "check"],
        cwd=folder.path.parent,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert "No new upgrade operations detected" in done.stdout + done.stderr
    assert done.returncode == 0
