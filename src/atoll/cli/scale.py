"""`atoll scale NAME=N`: another number of replicas."""

from __future__ import annotations

import json

import click

from atoll.cli.here import Here, here, json_option

__all__ = ["command"]


@click.command()
@click.argument("wish", metavar="NAME=N")
@json_option
@here
def command(here: Here, wish: str, as_json: bool) -> None:
    """Run N replicas of NAME until the next `up`; the manifest's `replicas` is what `up` starts."""
    name, count = _read(wish)
    replicas = here.ask({"do": "scale", "name": name, "count": count}, quiet=as_json)
    if as_json:
        click.echo(json.dumps({"service": name, "replicas": replicas}, indent=2))


def _read(wish: str) -> tuple[str, int]:
    """Raises BadParameter that says which numbers there are."""
    from atoll.system.manifest import MOST_REPLICAS

    name, equals, text = wish.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{wish!r} is not NAME=N, like orders=3")
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= MOST_REPLICAS):
        raise click.BadParameter(f"{text!r} is not a number of replicas: a service has 0 to {MOST_REPLICAS} of them")
    return name, int(text)
