"""Reads the gateway's access log, the present one and the one that was set aside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = ["Left", "Looked", "find", "last_left", "moment"]

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Looked:
    """The lines that were found, and how many were looked at since when: nobody keeps a log for ever."""

    lines: tuple[Line, ...]
    count: int
    since: str


@dataclass(frozen=True, slots=True)
class Left:
    """What a client was told of its rate limit: at `time` (epoch seconds) so many requests were left of `limit`, and in
    `reset_s` all would be.
    """

    time: float
    limit: int
    remaining: int
    reset_s: int


def last_left(log: Path, operation: str, subject: str) -> Left | None:
    """Of the last such request that has a line. Envoy tells nobody of its buckets but those whose they are."""
    found = None
    for text in _lines(log):
        if operation in text and subject in text:
            found = _left(_parsed(text), operation, subject) or found
    return found


def _left(line: Line, operation: str, subject: str) -> Left | None:
    if (line.get("operation"), line.get("subject")) != (operation, subject):
        return None
    told = [str(line.get(f"ratelimit_{name}")) for name in ("limit", "remaining", "reset_s")]
    # A service that has limits of its own may say it in other words.
    if not all(one.isascii() and one.isdigit() for one in told):
        return None
    return Left(moment(line), *map(int, told))


def moment(line: Line) -> float:
    """When the request came, in epoch seconds."""
    return datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()


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
