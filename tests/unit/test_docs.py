"""All pages: what they link to, name and show exists and can be read."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from atoll.cli import commands
from atoll.system.budgets import BUDGETS
from atoll.system.contract import Contract
from atoll.system.manifest import parse
from tests.support.pages import DOCS, blocks
from tests.support.system import ROOT

PAGES = sorted(DOCS.rglob("*.md"))
NAMES = [page.relative_to(DOCS).as_posix() for page in PAGES]
TESTS = "\n".join(file.read_text("utf-8") for file in sorted((ROOT / "tests").rglob("test_*.py")))
_FOLDERS = ("src/", "tests/", "docs/", "examples/", "benchmarks/")


def prose(page: Path) -> str:
    """Without blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    missing = [link for link in links if not link.startswith("https://") and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_file_and_test_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"`([^`\n]+)`", prose(page))
    files = [name.partition("::")[0] for name in named if name.startswith(_FOLDERS) and " " not in name]
    assert [name for name in files if not (ROOT / name).exists()] == []
    tests = [name.rpartition("::")[2] for name in named if re.fullmatch(r"(\S+::)?test_\w+", name)]
    assert [name for name in tests if not re.search(rf"def {name}\(", TESTS)] == []


def test_the_table_of_gateways_names_tests_that_are_in_their_files() -> None:
    _, table = (DOCS / "reference" / "gateway.md").read_text("utf-8").split("\n| capability |")
    capabilities = [line for line in table.splitlines() if line.count(" | ") == 6 and not line.startswith((" Kong", "| **"))]
    proofs = re.findall(r"\| `(\S+\.py)::(test_\w+)` \|$", table, flags=re.MULTILINE)
    assert len(proofs) == len(capabilities) > 80, "every capability has one"
    missing = [f"{file}::{test}" for file, test in proofs if f"def {test}(" not in (ROOT / "tests" / file).read_text("utf-8")]
    assert missing == []


def test_the_map_has_every_page_and_the_folder_of_decisions() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", (DOCS / "README.md").read_text("utf-8"))
    pages = [name for name in NAMES if name != "README.md" and not name.startswith("decisions/")]
    assert sorted(links) == sorted([*pages, "decisions/"])


def shown(language: str) -> Iterator[tuple[str, str]]:
    """Every block of a language, with the page it stands on."""
    for page, name in zip(PAGES, NAMES, strict=True):
        for block in blocks(page, language):
            yield name, block.text


def test_every_manifest_that_is_shown_can_be_read() -> None:
    for name, text in shown("toml"):
        if "[project]" in text:
            continue
        whole = text if text.startswith("format") else f'format = 1\nname = "shop"\n{text}'
        if 'fallback = "legacy"' in text:
            whole += "[services.legacy]\n"
        assert parse(whole, Path(name)).name == "shop"


def test_the_page_on_breakpoints_has_the_times_that_hold() -> None:
    page = (DOCS / "how-to" / "debug-with-breakpoints.md").read_text("utf-8")
    for time in (
        f"answers 504 after {BUDGETS.gateway_s:g} s",
        f"own limit of {BUDGETS.handler_s:g} s",
        f"after {BUDGETS.idle_in_transaction_s:g} s of idleness",
        f"more than {BUDGETS.handler_s:g} s counts as one of its six tries",
    ):
        assert time in page


def test_every_python_and_json_that_is_shown_can_be_read() -> None:
    for name, text in shown("python"):
        ast.parse(text, name)
    for _name, text in shown("json"):
        document = json.loads(text)
        if "format" in document:
            Contract.parse(document)


def test_the_services_that_show_databases_can_be_declared() -> None:
    """Everything in their signatures can be filled in."""
    services = [block.text for block in blocks(DOCS / "how-to" / "choose-a-database.md", "python") if "Service(" in block.text]
    assert len(services) == 2
    for text in services:
        scope: dict[str, Any] = {"__name__": "shown"}
        exec(compile(text, "shown", "exec", dont_inherit=True), scope)
        assert [operation.method for operation in scope["service"].operations] == ["GET"]


def test_the_service_that_shows_websockets_passes_the_test_that_is_shown(tmp_path: Path) -> None:
    declared, tested = (block.text for block in blocks(DOCS / "how-to" / "websockets.md", "python"))
    files = {
        "chat/__init__.py": "",
        "chat/service.py": declared,
        "migrations/0001_messages.sql": "CREATE TABLE message (room TEXT, author TEXT, text TEXT);",
        "test_chat.py": tested,
        "pytest.ini": "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\npythonpath = .",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "1 passed" in done.stdout, done.stdout


def parse_command(command: click.Command, name: str, arguments: list[str], parent: click.Context | None = None) -> None:
    """Fails for a command, an argument or an option that does not exist."""
    context = command.make_context(name, arguments, parent)
    if isinstance(command, click.Group):
        first, *rest = [*context._protected_args, *context.args]
        below = command.get_command(context, first)
        assert below is not None, f"{name} has no {first}"
        parse_command(below, first, rest, context)


def test_every_command_that_is_shown_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mended.json").touch()
    monkeypatch.chdir(tmp_path)
    found = [line for _name, text in shown("sh") for line in text.splitlines() if line.startswith("atoll ")]
    assert found
    for line in found:
        parse_command(commands.atoll, "atoll", shlex.split(line)[1:])
