"""`atoll restart NAME`: a rolling replacement."""

from __future__ import annotations

import json

import click

from atoll.cli.here import Here, here, json_option

__all__ = ["command"]


@click.command()
@click.argument("name")
@json_option
@here
def command(here: Here, name: str, as_json: bool) -> None:
    """Replace NAME's replicas one by one: a new one first, the gateway confirms it, then the old one drains."""
    replaced = here.ask({"do": "restart", "name": name}, quiet=as_json)
    if as_json:
        click.echo(json.dumps({"service": name, "replaced": replaced}, indent=2))
