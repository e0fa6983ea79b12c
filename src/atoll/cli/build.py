"""`atoll build`: container images."""

from __future__ import annotations

import json
import os

import click

from atoll.cli.containers import environment_option, planned
from atoll.cli.here import Here, here, json_option
from atoll.errors import SystemMistake

__all__ = ["command"]


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@environment_option
@click.option("--push", is_flag=True, help="Then push them to where [containers] repository says.")
@json_option
@here
def command(here: Here, names: tuple[str, ...], environment: str, push: bool, as_json: bool) -> None:
    """Build the images of all parts, or of NAME, that are not there yet: services, auth, gateway, nats, provision, databases.

    Wheels are fetched first, from locked requirements; the build itself has no network. The same input gives the same image.
    """
    from atoll.deploy.builds import Builder
    from atoll.deploy.docker import Docker
    from atoll.deploy.files import sources

    plan, docker = planned(here, environment), Docker.find()
    builder = Builder(docker, plan, sources(plan), here.layout.root / "images", _epoch())
    references = builder.build(names, lambda line: click.echo(line, err=as_json))
    for reference in references.values() if push else ():
        docker.push(reference)
        click.echo(f"{reference} is pushed", err=as_json)
    if as_json:
        click.echo(json.dumps(references, indent=2))


def _epoch() -> int:
    from atoll.deploy.builds import EPOCH

    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    if said and not said.isdigit():
        raise SystemMistake(f"SOURCE_DATE_EPOCH is {said!r}", hint="it is a moment in seconds since 1970")
    return int(said or EPOCH)
