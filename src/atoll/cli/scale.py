"""`atoll scale NAME=N`: another number of replicas."""

from __future__ import annotations

import click

from atoll.cli.here import Here, here

__all__ = ["command"]


@click.command()
@click.argument("wish", metavar="NAME=N")
@here
def command(here: Here, wish: str) -> None:
    """Run N replicas of NAME until the next `up`; the manifest's `replicas` is what `up` starts."""
    name, _, count = wish.partition("=")
    if not count.isdecimal():
        raise click.BadParameter(f"{wish!r} is not NAME=N, like orders=3")
    here.ask({"do": "scale", "name": name, "count": int(count)})
