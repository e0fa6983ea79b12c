"""`atoll mirror`: what mirrors have compared, read from their reports, whether anything runs or not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atoll.cli.here import Here, here, json_option
from atoll.errors import SystemMistake

if TYPE_CHECKING:
    from atoll.gateway.mirror.report import Report

__all__ = ["command"]

_SAME, _DIFFERENT, _NOTHING = 0, 1, 2


@click.command()
@click.argument("name", required=False)
@click.option("--reset", is_flag=True, help="Forget what was counted, and count anew from now on.")
@json_option
@here
def command(here: Here, name: str | None, reset: bool, as_json: bool) -> int:
    """How a second service's answers differ from those that clients get, for the mirror NAME or all.

    Ends with 0 when all were the same, 1 when some differed or could not be had, 2 when nothing was compared yet. In a
    gateway's container it is that gateway's mirrors.
    """
    inside = os.environ.get("ATOLL_MIRROR_DIR")
    folder = Path(inside) if inside else here.layout.mirror
    names = _chosen(name, _known_inside() if inside else _declared(here))
    if reset:
        for one in names:
            (folder / f"{one}.json").unlink(missing_ok=True)
        return _SAME
    found = {one: _read(folder, one) for one in names}
    if as_json:
        click.echo(json.dumps({one: _plain(report) for one, report in found.items()}, indent=2, ensure_ascii=False))
    else:
        click.echo("\n\n".join(_text(one, report) for one, report in found.items()))
    verdicts = {_verdict(report) for report in found.values()}
    return _DIFFERENT if _DIFFERENT in verdicts else max(verdicts, default=_NOTHING)


def _declared(here: Here) -> list[str]:
    """By the manifest. Raises SystemMistake when there are none."""
    names = [mirror.name for mirror in here.system.gateway.mirrors]
    if not names:
        raise SystemMistake(
            f"{here.system.name} has no mirrors",
            where=str(here.folder / "atoll.toml"),
            hint="declare one: [gateway.mirrors.NAME]",
        )
    return names


def _known_inside() -> list[str]:
    """What the controller beside has been told of. Raises SystemMistake when there is none."""
    from atoll.gateway.known import Known

    inputs = Path(os.environ.get("ATOLL_GATEWAY_DIR", ""), "inputs.json")
    try:
        return sorted(Known.parse(inputs.read_bytes()).system.mirrors)
    except OSError as error:
        raise SystemMistake(f"the gateway's record can't be read: {error.strerror}", where=str(inputs)) from None


def _chosen(name: str | None, names: list[str]) -> list[str]:
    """Raises SystemMistake for a mirror that there is not."""
    if name is not None and name not in names:
        raise SystemMistake(f"there is no mirror {name!r}", hint=f"mirrors here: {', '.join(names)}")
    return names if name is None else [name]


def _read(folder: Path, name: str) -> Report | None:
    from atoll.gateway.mirror.report import Report

    return Report.read(folder / f"{name}.json")


def _plain(report: Report | None) -> object:
    import msgspec

    return msgspec.to_builtins(report)


def _text(name: str, report: Report | None) -> str:
    from atoll.gateway.mirror.shown import text

    return text(report) if report else f"{name}: nothing compared yet"


def _verdict(report: Report | None) -> int:
    operations = list(report.operations.values()) if report else []
    if not all(one.is_clean for one in operations):
        return _DIFFERENT
    return _SAME if any(one.compared for one in operations) else _NOTHING
