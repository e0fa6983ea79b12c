"""`atoll build`: container images."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from atoll.cli.containers import environment_option, planned
from atoll.cli.here import Here, here, json_option
from atoll.errors import SystemMistake

if TYPE_CHECKING:
    from atoll.deploy.builds import Builder

__all__ = ["command"]


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@environment_option
@click.option(
    "--push",
    is_flag=True,
    help="Then push them to where [containers] repository says, and write their digests into deploy/digests.json.",
)
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
    if push:
        _push(here, builder, references, lambda line: click.echo(line, err=as_json))
    if as_json:
        click.echo(json.dumps(references, indent=2))


def _push(here: Here, builder: Builder, references: dict[str, str], say: Callable[[str], None]) -> None:
    """Each digest is written down as soon as it is known: what was pushed before a failure stays."""
    from atoll.deploy import digests
    from atoll.deploy.files import read_digests, write

    file, present = here.folder / digests.FILE, builder.references().values()
    for reference in dict.fromkeys(references.values()):
        pushed = {reference: builder.docker.push(reference)}
        write(here.folder, {digests.FILE: digests.text(digests.kept(read_digests(file), pushed, present))})
        say(f"{reference} is pushed: {pushed[reference]}")


def _epoch() -> int:
    from atoll.deploy.builds import EPOCH

    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    if said and not said.isdigit():
        raise SystemMistake(f"SOURCE_DATE_EPOCH is {said!r}", hint="it is a moment in seconds since 1970")
    return int(said or EPOCH)
