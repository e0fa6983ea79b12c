"""`atoll doctor`: what this machine has and misses."""

from __future__ import annotations

import json

import click

from atoll.cli.here import Here, here, json_option
from atoll.errors import SystemMistake

__all__ = ["command"]

_MARKS = {"ok": "ok  ", "warning": "warn", "missing": "MISS"}


@click.command()
@json_option
@here
def command(here: Here, as_json: bool) -> int:
    """Engines and their versions, limits, ports, interpreters: what is missing, whom it hurts and what to do."""
    from atoll.host.doctor import examine

    try:
        system = here.system
    except SystemMistake as mistake:
        if "there is no atoll.toml" not in mistake.detail:
            raise
        system = None
    findings = examine(system)
    if as_json:
        click.echo(json.dumps([finding.shown() for finding in findings], indent=2))
    for finding in findings if not as_json else ():
        click.echo(f"{_MARKS[finding.state]}  {finding.what:<22} {finding.found}")
        if finding.advice:
            click.echo(f"      → {finding.advice}")
    return 1 if any(finding.state == "missing" for finding in findings) else 0
