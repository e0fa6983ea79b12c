"""`atoll restart NAME`: a rolling replacement."""

from __future__ import annotations

import click

from atoll.cli.here import Here, here

__all__ = ["command"]


@click.command()
@click.argument("name")
@here
def command(here: Here, name: str) -> None:
    """Replace NAME's replicas one by one: a new one first, the gateway confirms it, then the old one drains."""
    here.ask({"do": "restart", "name": name})
