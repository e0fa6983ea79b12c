"""docs/tutorial/first-service.md is executed as it stands: every file written, every command run, every output compared."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import DOCS, Block, blocks
from tests.support.shop import SHOP
from tests.support.system import RunningSystem

PAGE = DOCS / "tutorial" / "first-service.md"
_STEP = "=== step "
_TIMEOUT_S = 240.0
_HEREDOC = "END OF THE BLOCK"


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """What the reader has: the shop, and the environment in .venv. Whatever the page leaves running ends."""
    folder = tmp_path / "atoll"
    ignored = shutil.ignore_patterns(".atoll", "__pycache__", ".pytest_cache", ".venv")
    shutil.copytree(SHOP, folder / "examples" / "shop", ignore=ignored)
    (folder / ".venv").symlink_to(sys.prefix)
    try:
        yield folder
    finally:
        if (tmp_path / "my-shop" / "atoll.toml").exists():
            RunningSystem(tmp_path / "my-shop").run("down", "--delete-data")


def script(page: list[Block]) -> str:
    """The page as one shell script. Before each block of commands it prints the block's number."""
    parts = ["set -eu"]
    for number, block in enumerate(page):
        if block.path:
            parts.append(written(block))
        elif block.language == "sh":
            parts.append(f"echo; echo '{_STEP}{number}'\n{block.text}")
    return "\n".join(parts)


def written(block: Block) -> str:
    here = f"<<'{_HEREDOC}'\n{block.text}{_HEREDOC}"
    if block.how == "changed":
        return f"patch -s {block.path} {here}"
    redirection = ">>" if block.how == "at its end" else ">"
    return f"mkdir -p $(dirname {block.path})\ncat {redirection} {block.path} {here}"


def printed(output: str) -> dict[int, str]:
    """What each block of commands printed, by its number."""
    parts = re.split(rf"^{_STEP}(\d+)\n", output, flags=re.MULTILINE)
    return {int(number): text.strip() for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def fits(expected: str, text: str) -> bool:
    """Whether `text` holds what the page shows, line after line; `…` stands for anything, and lines may lie between them."""
    lines = [".*".join(map(re.escape, line.split("…"))) for line in expected.strip().splitlines()]
    return re.search(r"\n(?:.*\n)*?".join(lines), text) is not None


def test_the_tutorial_works_as_it_is_written(clone: Path) -> None:
    page = blocks(PAGE)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["bash"],
        input=script(page),
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    outputs = printed(done.stdout)
    for number, block in enumerate(page):
        if block.language == "text":
            assert fits(block.text, outputs[number - 1]), f"the page shows:\n{block.text}\nit was:\n{outputs[number - 1]}"
    assert not (clone.parent / "my-shop" / ".atoll").exists()
