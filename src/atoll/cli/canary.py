"""`atoll canary NAME --weight N`: how many clients meet a service's other version."""

from __future__ import annotations

import json

import click

from atoll.cli.here import Here, here, json_option

__all__ = ["command"]


@click.command()
@click.argument("name")
@click.option("--weight", type=click.IntRange(0, 100), required=True, metavar="N", help="Of a hundred clients.")
@json_option
@here
def command(here: Here, name: str, weight: int, as_json: bool) -> None:
    """Give NAME's canary another share of clients until the next `up`; nothing restarts.

    Returns when the gateway keeps to it. 0 takes it out of use, 100 gives it everybody. The manifest's `weight` is what `up`
    begins with.
    """
    share = here.ask({"do": "canary", "name": name, "weight": weight}, quiet=as_json)
    if as_json:
        click.echo(json.dumps({"service": name, "weight": share}, indent=2))
    else:
        click.echo(f"{name}: {share} of a hundred clients meet the canary")
