"""`atoll canary NAME`: how many clients meet a service's other version, and how that ends."""

from __future__ import annotations

import json
from pathlib import Path

import click

from atoll.cli.here import Here, here, json_option
from atoll.errors import SystemMistake

__all__ = ["command"]


@click.command()
@click.argument("name")
@click.option("--weight", type=click.IntRange(0, 100), metavar="N", help="So many of a hundred clients meet it.")
@click.option("--promote", is_flag=True, help="Its version becomes the service's.")
@click.option("--abort", is_flag=True, help="The service's version is everybody's again.")
@json_option
@here
def command(here: Here, name: str, weight: int | None, promote: bool, abort: bool, as_json: bool) -> None:
    """Give NAME's canary another share of clients, or end it, until the next `up`. No request fails.

    `--weight` restarts nothing, and returns when the gateway keeps to it; 0 takes it out of use, 100 gives it everybody.
    `--promote` replaces the service's replicas one by one with the canary's version, then stops the canary; `--abort` stops it.
    `up` begins with what the manifest and its folders say, so change these too.
    """
    if (weight is not None) + promote + abort != 1:
        raise SystemMistake("`atoll canary` does one thing at a time", hint="--weight N, --promote or --abort")
    if weight is not None:
        weight = here.ask({"do": "canary", "name": name, "weight": weight}, quiet=as_json)
        _say({"service": name, "weight": weight}, f"{name}: {weight} of a hundred clients meet the canary", as_json)
    elif promote:
        folder = here.ask({"do": "promote", "name": name}, quiet=as_json)
        _say({"service": name, "promoted": folder}, _promoted(name, Path(folder)), as_json)
    else:
        here.ask({"do": "abort", "name": name}, quiet=as_json)
        _say(
            {"service": name, "aborted": True},
            f"{name}: nobody meets the canary any more, and it has stopped\n{_next(name)}",
            as_json,
        )


def _promoted(name: str, folder: Path) -> str:
    return (
        f"{name}: {folder} is what every client meets now\n"
        f"before the next `up`: make it the service's folder (its files in place of those of services/{name})\n{_next(name)}"
    )


def _next(name: str) -> str:
    return f"before the next `up`: take [services.{name}.canary] out of the manifest, or it begins again"


def _say(result: dict[str, object], text: str, as_json: bool) -> None:
    click.echo(json.dumps(result, indent=2) if as_json else text)
