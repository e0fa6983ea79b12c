"""`atoll render compose|kubernetes`: the system as files for a container host."""

from __future__ import annotations

from collections.abc import Iterable
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
@click.option(
    "-o", "--into", type=click.Path(path_type=Path), default=None, help="Default: deploy/compose in the system's folder."
)
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
    from atoll.provision.secrets import Secrets

    plan = planned(here, environment)
    found = sources(plan)
    references = {name: reference(image, plan, found) for name, image in images(plan, found).items()}
    folder = into or here.folder / "deploy" / "compose"
    secrets = folder / "secrets"
    secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    numbers = cells(read_numbers(folder / "cells.json"), [part.name for part in plan.members])
    kept = Secrets(secrets / "passwords.json")
    retired = _retired(secrets, plan.contracts)
    texts = secret_files(plan, Keeper(kept.of, read_given(secrets / "given"), retired))
    kept.save()
    write_secrets(secrets, texts)
    for name in write(folder, render(plan, Told(references, numbers, address))):
        click.echo(f"{folder / name} is written")


@command.command()
@environment_option
@click.option(
    "-o", "--into", type=click.Path(path_type=Path), default=None, help="Default: deploy/kubernetes in the system's folder."
)
@here
def kubernetes(here: Here, environment: str, into: Path | None) -> None:
    """Manifests: a kustomize base, overlays (dev, production, operators), and secrets for dev that are not there yet.

    Then `kubectl apply -k overlays/dev` in that folder; `atoll build --push` makes the images.
    """
    from atoll.deploy.files import read_given, sources, write, write_secrets
    from atoll.deploy.images import images, reference
    from atoll.deploy.kubernetes import Told, host, render, secret_generators
    from atoll.deploy.secrets import Keeper, secret_files
    from atoll.provision.secrets import Secrets

    plan = planned(here, environment)
    found = sources(plan)
    references = {name: reference(image, plan, found) for name, image in images(plan, found).items()}
    folder = into or here.folder / "deploy" / "kubernetes"
    texts = render(plan, Told(references))
    secrets = folder / "secrets"
    secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = Secrets(secrets / "passwords.json")
    keeper = Keeper(kept.of, read_given(secrets / "given"), _retired(secrets, plan.contracts), host)
    written = {**secret_files(plan, keeper), "kustomization.yaml": secret_generators(plan)}
    kept.save()
    write_secrets(secrets, written)
    for name in write(folder, texts):
        click.echo(f"{folder / name} is written")


def _retired(secrets: Path, contracts: Iterable[str]) -> set[str]:
    """The bus accounts of services that are no more: they stay, with their streams."""
    from atoll.provision.nats import account, accounts

    configuration = secrets / "nats" / "nats.conf"
    before = accounts(configuration.read_text()) if configuration.exists() else set()
    return before - {account(name) for name in contracts}
