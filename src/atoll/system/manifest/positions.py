"""Where the keys of a TOML text stand, so that a mistake can be named with its line: `tomllib` tells values only.

A small scanner, not a parser: it is given text that `tomllib` has accepted.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import SystemMistake

__all__ = ["Places", "Positions", "scan", "syntax_error_line"]

Positions = dict[tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class Places:
    """Where in the text of `path` something stands, for messages."""

    path: Path
    positions: Positions

    def mistake(self, at: tuple[str, ...], detail: str, hint: str = "") -> SystemMistake:
        """To be raised."""
        return SystemMistake(detail, where=self.where(at), hint=hint)

    def where(self, at: tuple[str, ...]) -> str:
        """file:line of a key, or of the innermost table around it that stands in the text."""
        while at and at not in self.positions:
            at = at[:-1]
        return f"{self.path}:{self.positions.get(at, 1)}"


_HEADER = re.compile(r"^\s*\[\[?([^\[\]]+)\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_STRING = re.compile(r'"(?:\\.|[^"\\])*"' + r"|'[^']*'")


def scan(text: str) -> Positions:
    """The line (from 1) of every table and key, by its dotted path. Of a repeated table, the last."""
    found: Positions = {}
    table: tuple[str, ...] = ()
    depth, quotes = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        if quotes:
            quotes = "" if quotes in line else quotes
            continue
        if depth == 0 and (header := _HEADER.match(line)):
            table = _path(header.group(1))
            _record(found, table, number)
            continue
        if depth == 0 and (key := _KEY.match(line)):
            _record(found, table + _path(key.group(1)), number)
        depth, quotes = _nesting(line, depth)
    return found


def syntax_error_line(error: tomllib.TOMLDecodeError) -> int:
    """The line that `tomllib` stumbled over, 0 when it does not say."""
    match = re.search(r"line (\d+)", str(error))
    return int(match.group(1)) if match else 0


def _path(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _record(found: Positions, path: tuple[str, ...], number: int) -> None:
    """Tables that are only implied by a deeper header stand where that header stands."""
    for length in range(1, len(path)):
        found.setdefault(path[:length], number)
    found[path] = number


def _nesting(line: str, depth: int) -> tuple[int, str]:
    """How many brackets are open after this line, and the quotes of a multi-line string that stays open."""
    for quotes in ('"""', "'''"):
        if line.count(quotes) % 2:
            return depth, quotes
    bare = _STRING.sub("", line).split("#", 1)[0]
    value = bare.split("=", 1)[1] if depth == 0 and "=" in bare else bare
    opened = value.count("[") + value.count("{") - value.count("]") - value.count("}")
    return max(0, depth + opened), ""
