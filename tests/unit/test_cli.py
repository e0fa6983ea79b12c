"""The command line without a system: help is cheap, and every error is one message with what to do."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import click
import pytest

from atoll.cli.commands import COMMANDS


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


def test_a_new_migration_has_the_next_number(tmp_path: Path) -> None:
    package = tmp_path / "services" / "orders" / "orders"
    package.mkdir(parents=True)
    (package / "service.py").touch()
    (tmp_path / "atoll.toml").write_text('format = 1\nname = "s"\n[services.orders]\n')
    first = atoll("migrate", "orders", "--new", "orders", folder=tmp_path).stdout.strip()
    second = atoll("migrate", "orders", "--new", "Add an index!", folder=tmp_path).stdout.strip()
    assert (Path(first).name, Path(second).name) == ("0001_orders.sql", "0002_add_an_index.sql")
    assert Path(second).exists()


def test_version(tmp_path: Path) -> None:
    assert atoll("--version", folder=tmp_path).stdout.startswith("atoll 0.")
