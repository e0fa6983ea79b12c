"""`atoll render compose`: the system as files for a container host."""

from __future__ import annotations

from pathlib import Path

import click

from atoll.cli.containers import environment_option, planned
from atoll.cli.here import Here, here

__all__ = ["command"]


@click.group()
def command() -> None:
    """The system as files for a container host."""


@command.command()
@environment_option
@click.option("--into", type=click.Path(path_type=Path), default=None, help="Default: deploy/compose in the system's folder.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where the gateway's port is published.")
@here
def compose(here: Here, environment: str, into: Path | None, address: str) -> None:
    """A Compose file, what it mounts, and secrets that are not there yet.

    Then `docker compose up -d` in that folder starts the system; `atoll build` makes its images.
    """
    from atoll.deploy.compose import Told, cells, render
    from atoll.deploy.files import read_given, read_numbers, sources, write, write_secrets
    from atoll.deploy.images import images, reference
    from atoll.deploy.secrets import Keeper, secret_files
    from atoll.provision.nats import account, accounts
    from atoll.provision.secrets import Secrets

    plan = planned(here, environment)
    found = sources(plan)
    references = {name: reference(image, plan, found) for name, image in images(plan, found).items()}
    folder = into or here.folder / "deploy" / "compose"
    secrets = folder / "secrets"
    secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    numbers = cells(read_numbers(folder / "cells.json"), [part.name for part in plan.members])
    kept = Secrets(secrets / "passwords.json")
    configuration = secrets / "nats" / "nats.conf"
    before = accounts(configuration.read_text()) if configuration.exists() else set()
    retired = before - {account(name) for name in plan.contracts}
    texts = secret_files(plan, Keeper(kept.of, read_given(secrets / "given"), retired))
    kept.save()
    write_secrets(secrets, texts)
    for name in write(folder, render(plan, Told(references, numbers, address))):
        click.echo(f"{folder / name} is written")
