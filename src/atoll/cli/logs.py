"""`atoll logs`: the log files of the system's processes, joined."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import click

from atoll.cli.here import Here, here, json_option
from atoll.errors import SystemMistake

__all__ = ["command"]

Show = Callable[[Path, str], None]

_PAUSE_S = 0.1


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option(
    *("-n", "--lines"),
    type=click.IntRange(0),
    metavar="N",
    default=20,
    show_default=True,
    help="How many lines of each log to begin with.",
)
@json_option
@here
def command(here: Here, name: str | None, follow: bool, lines: int, as_json: bool) -> None:
    """The last lines of every log, or of NAME's: a service (all its replicas and its database) or one process."""
    paths = _paths(here, name)
    width = max(len(path.stem) for path in paths)
    show = _show_json if as_json else partial(_show, width)
    ends: dict[Path, int] = {}
    for path in paths:
        with open(path, "rb") as log:
            last = deque(log, maxlen=lines)
            ends[path] = log.tell()
        for line in last:
            show(path, line.decode("utf-8", "replace").rstrip("\r\n"))
    if follow:
        _follow(here, name, ends, show)


def _show(width: int, path: Path, line: str) -> None:
    click.echo(f"{path.stem:{width}} | {line}")


def _show_json(path: Path, line: str) -> None:
    """One object a line, so that a program can read what is followed."""
    click.echo(json.dumps({"process": path.stem, "line": line}))


def _paths(here: Here, name: str | None) -> list[Path]:
    """Raises SystemMistake that names the logs there are."""
    found = _found(here, name)
    if not found:
        known = ", ".join(path.stem for path in _found(here, None))
        hint = f"logs here: {known}" if known else "start the system: `atoll up`"
        of = f" of {name!r}" if name is not None else ""
        raise SystemMistake(f"there are no logs{of}", where=str(here.layout.logs), hint=hint)
    return found


def _found(here: Here, name: str | None) -> list[Path]:
    return [path for path in sorted(here.layout.logs.glob("*.log")) if name is None or _belongs(path.stem, name)]


def _belongs(stem: str, name: str) -> bool:
    """orders-1 and orders.postgresql are of orders, and so is orders itself."""
    return stem == name or stem.startswith(f"{name}.") or (stem.startswith(f"{name}-") and stem.rsplit("-", 1)[1].isdigit())


def _follow(here: Here, name: str | None, ends: dict[Path, int], show: Show) -> None:
    """Until Ctrl-C, through restarts of the system."""
    while True:
        for path in _found(here, name):
            with suppress(FileNotFoundError):  # just now: the system is being deleted
                for line in _new_lines(path, ends):
                    show(path, line)
        time.sleep(_PAUSE_S)


def _new_lines(path: Path, ends: dict[Path, int]) -> Iterator[str]:
    """Whole lines only; a log that became shorter was begun anew."""
    start = ends.get(path, 0)
    with open(path, "rb") as log:
        size = os.fstat(log.fileno()).st_size
        log.seek(start if start <= size else 0)
        text = log.read()
        whole = text.rfind(b"\n") + 1
        ends[path] = log.tell() - len(text) + whole
    yield from text[:whole].decode("utf-8", "replace").splitlines()
