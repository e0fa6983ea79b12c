"""`atoll ps`: what runs where."""

from __future__ import annotations

import json
from typing import Any

import click

from atoll.cli.here import Here, here, json_option

__all__ = ["command"]


@click.command()
@json_option
@here
def command(here: Here, as_json: bool) -> None:
    """What runs where: every process with its state, pid, port and restarts."""
    state: dict[str, Any] = here.ask({"do": "ps"})
    if as_json:
        click.echo(json.dumps(state, indent=2))
        return
    click.echo(f"{state['system']} at {state['url']}, host pid {state['pid']}")
    rows = [("PROCESS", "STATE", "PID", "PORT", "RESTARTS"), *map(_row, state["processes"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for service, why in state["down"].items():
        click.echo(f"{service} is down: {why}")


def _row(process: dict[str, Any]) -> tuple[str, ...]:
    shown = (process["name"], process["state"], process["pid"], process["port"] or "", process["restarts"])
    return tuple(map(str, shown))
