"""`atoll env NAME`: the variables a replica is started with."""

from __future__ import annotations

import json
import shlex

import click

from atoll.cli.here import Here, here, json_option

__all__ = ["command"]


@click.command()
@click.argument("name")
@json_option
@here
def command(here: Here, name: str, as_json: bool) -> None:
    """The environment NAME's replicas get from the running host, credentials included, as shell assignments."""
    variables: dict[str, str] = here.ask({"do": "env", "name": name})["environment"]
    if as_json:
        click.echo(json.dumps(variables, indent=2, sort_keys=True))
        return
    for key, value in sorted(variables.items()):
        click.echo(f"export {key}={shlex.quote(value)}")
