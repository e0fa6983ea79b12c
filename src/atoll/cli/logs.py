"""`atoll logs`: the log files of the system's processes, joined."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import click

from atoll.cli.here import Here, here
from atoll.errors import SystemMistake

__all__ = ["command"]

_PAUSE_S = 0.1


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("-n", "--lines", default=20, show_default=True, help="How many lines of each log to begin with.")
@here
def command(here: Here, name: str | None, follow: bool, lines: int) -> None:
    """The last lines of every log, or of NAME's: a service (all its replicas and its database) or one process."""
    paths = _paths(here, name)
    width = max(len(path.stem) for path in paths)
    for path in paths:
        for line in path.read_text("utf-8", "replace").splitlines()[-lines:] if lines else ():
            click.echo(f"{path.stem:{width}} | {line}")
    if follow:
        _follow(here, name, paths)


def _paths(here: Here, name: str | None) -> list[Path]:
    found = sorted(here.layout.logs.glob("*.log")) if here.layout.logs.is_dir() else []
    if name is not None:
        found = [path for path in found if _belongs(path.stem, name)]
    if not found:
        known = sorted({path.stem for path in here.layout.logs.glob("*.log")})
        hint = f"logs here: {', '.join(known)}" if known else "start the system: `atoll up`"
        raise SystemMistake(f"there are no logs{f' of {name}' if name else ''}", where=str(here.layout.logs), hint=hint)
    return found


def _belongs(stem: str, name: str) -> bool:
    """orders-1 and orders.postgresql are of orders, and so is orders itself."""
    return stem == name or stem.startswith(f"{name}.") or (stem.startswith(f"{name}-") and stem.rsplit("-", 1)[1].isdigit())


def _follow(here: Here, name: str | None, paths: list[Path]) -> None:
    ends = {path: path.stat().st_size for path in paths}
    while True:
        for path in _paths(here, name):
            for line in _new_lines(path, ends):
                click.echo(f"{path.stem} | {line}")
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
