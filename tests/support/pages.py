"""Pages of the documentation as data, so that tests can hold them to the code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.system import ROOT

__all__ = ["DOCS", "Block", "blocks", "names", "rows"]

DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CAPTION = re.compile(r"`([^`]+)`(, [a-z ]+)?:$")
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block. `path` is the file that the line above it names, `how` what that line says of it."""

    language: str
    text: str
    path: str = ""
    how: str = ""


def blocks(page: Path, language: str = "") -> list[Block]:
    """In order; of `language` only, if it is given."""
    text = page.read_text("utf-8")
    found = [_block(text, match) for match in _FENCE.finditer(text)]
    return [block for block in found if block.language == language or not language]


def _block(text: str, match: re.Match[str]) -> Block:
    above = text[: match.start()].rstrip().rsplit("\n", 1)[-1]
    caption = _CAPTION.match(above)
    return Block(match[1], match[2], caption[1] if caption else "", (caption[2] or "").strip(", ") if caption else "")


def rows(page: Path, heading: str = "") -> list[list[str]]:
    """The cells of every table row on the page, or below one heading, without the head of each table."""
    text = page.read_text("utf-8")
    if heading:
        level = heading.split(" ")[0]
        parts = re.split(rf"^{re.escape(heading)}$", text, flags=re.MULTILINE)
        assert len(parts) == 2, f"{page.name} has {len(parts) - 1} headings {heading!r}"
        text = re.split(rf"^#{{1,{len(level)}}} ", parts[1], flags=re.MULTILINE)[0]
    lines = text.splitlines()
    tables = [i for i, line in enumerate(lines) if re.fullmatch(r"\|( *-+ *\|)+", line)]
    heads = {i - 1 for i in tables} | set(tables)
    return [_cells(line) for i, line in enumerate(lines) if line.startswith("|") and i not in heads]


def _cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def names(cell: str) -> list[str]:
    """Everything that stands in `code` in a cell."""
    return _CODE.findall(cell)
