"""Reads the gateway's access log, the present one and the one that was set aside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Looked", "find"]

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Looked:
    """The lines that were found, and how many were looked at since when: nobody keeps a log for ever."""

    lines: tuple[Line, ...]
    count: int
    since: str


def find(log: Path, id: str) -> Looked:
    """The lines of a request id or a trace id."""
    found, count, since = [], 0, ""
    for text in _lines(log):
        count += 1
        if count == 1:
            since = _parsed(text).get("time", "")
        if id in text and id in ((line := _parsed(text)).get("request_id"), line.get("trace_id")):
            found.append(line)
    return Looked(tuple(found), count, since)


def _lines(log: Path) -> Iterator[str]:
    for path in (log.with_name(f"{log.name}.1"), log):
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                yield from file
        except FileNotFoundError:
            continue


def _parsed(text: str) -> Line:
    """{} for half a line: the last one may just be written."""
    try:
        return dict(json.loads(text))
    except ValueError:
        return {}
