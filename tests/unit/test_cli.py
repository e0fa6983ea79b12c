"""The command line without a system: help is cheap, and every error is one message with what to do."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from atoll.cli.commands import COMMANDS
from atoll.database import migrations
from atoll.errors import SystemMistake


def atoll(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atoll", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_help_names_every_command_and_imports_none_of_them(tmp_path: Path) -> None:
    program = "import sys; from atoll.cli import main; sys.argv[1:] = ['--help']; main(); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    *text, modules = said.strip().splitlines()
    assert all(any(line.strip().startswith(name) for line in text) for name in COMMANDS)
    loaded = set(modules.split())
    assert loaded.isdisjoint({"asyncio", "msgspec", "ssl", "atoll.host.host", "atoll.system.manifest"})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    command = importlib.import_module(f"atoll.cli.{COMMANDS[name][0]}").command
    assert isinstance(command, click.Command)
    assert command.help


def test_outside_a_system_a_command_says_where_it_looked(tmp_path: Path) -> None:
    refused = atoll("ps", folder=tmp_path)
    assert refused.returncode == 1
    assert f"there is no atoll.toml in {tmp_path}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_unknown_command_is_refused(tmp_path: Path) -> None:
    refused = atoll("fly", folder=tmp_path)
    assert refused.returncode == 2
    assert "fly" in refused.stderr


def test_an_unknown_service_is_refused_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "atoll.toml").write_text('format = 1\nname = "s"\n')
    refused = atoll("describe", "orders", folder=tmp_path)
    assert refused.returncode == 1
    assert "there is no service 'orders'" in refused.stderr
    assert "none yet" in refused.stderr


def orders(folder: Path, database: str | None) -> Path:
    """A system of one service. Gives the folder of its migrations."""
    package = folder / "services" / "orders" / "orders"
    package.mkdir(parents=True)
    (package / "service.py").write_text(f"from atoll import Service\n\nservice = Service('orders', database={database!r})\n")
    (folder / "atoll.toml").write_text('format = 1\nname = "s"\n[services.orders]\n')
    return package.parent / "migrations"


def test_a_new_migration_has_the_next_number_and_counts_as_empty_until_it_is_written(tmp_path: Path) -> None:
    folder = orders(tmp_path, "sqlite")
    first = atoll("migrate", "orders", "--new", "orders", folder=tmp_path).stdout.strip()
    told = json.loads(atoll("migrate", "orders", "--new", "atoll: no transaction", "--json", folder=tmp_path).stdout)
    assert Path(first) == folder / "0001_orders.sql"
    assert told == {"service": "orders", "files": [f"{folder}/0002_atoll_no_transaction.sql"]}
    written = migrations.read(folder)
    assert [one.transactional for one in written] == [True, True]
    with pytest.raises(SystemMistake, match=r"0001_orders\.sql holds no statement"):
        migrations.pending(written, {})


def test_a_new_migration_of_a_service_with_mongodb_is_python(tmp_path: Path) -> None:
    folder = orders(tmp_path, "mongodb")
    assert atoll("migrate", "orders", "--new", 'An "index"', folder=tmp_path).returncode == 0
    text = (folder / "0001_an_index.py").read_text()
    module: dict[str, Any] = {}
    exec(compile(text, "0001_an_index.py", "exec"), module)
    assert module["__doc__"] == "An 'index'"
    assert inspect.iscoroutinefunction(module["migrate"])


def test_a_service_without_a_database_has_no_migrations(tmp_path: Path) -> None:
    folder = orders(tmp_path, None)
    refused = atoll("migrate", "orders", "--new", "first", folder=tmp_path)
    assert refused.returncode == 1
    assert "orders has no database" in refused.stderr
    assert not folder.exists()


@pytest.mark.parametrize("what", ["", "  ", "!?", "../../etc/passwd", "two\nlines", "größer", "x" * 61])
def test_a_name_that_is_none_begins_no_migration(tmp_path: Path, what: str) -> None:
    folder = orders(tmp_path, "sqlite")
    refused = atoll("migrate", "orders", "--new", what, folder=tmp_path)
    assert refused.returncode == 2
    assert "names no migration" in refused.stderr
    assert not folder.exists()


def test_version(tmp_path: Path) -> None:
    assert atoll("--version", folder=tmp_path).stdout.startswith("atoll 0.")
