"""`atoll render compose|kubernetes`: the system as files for a container host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atoll.cli.containers import environment_option, planned
from atoll.cli.here import Here, here
from atoll.errors import SystemMistake

if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll.deploy.certificates import BusCertificates
    from atoll.deploy.plan import Plan
    from atoll.provision.secrets import Secrets

__all__ = ["command"]

_KEPT = "passwords.json"
_diff_option: Callable[[Any], Any] = click.option(
    "--diff",
    "only_shown",
    is_flag=True,
    help="Write nothing; show what would change: 0 nothing, 1 something, 2 a consumer breaks.",
)
_anyway_option: Callable[[Any], Any] = click.option(
    "--anyway", is_flag=True, help="Write also what a consumer could not read any more."
)


_settled_option: Callable[[Any], Any] = click.option(
    "--settled", is_flag=True, help="All replicas of former contracts have left: what only those may consume is taken away."
)


def _into(name: str) -> Callable[[Any], Any]:
    shown = f"Default: deploy/{name} in the system's folder."
    return click.option("-o", "--into", type=click.Path(path_type=Path), default=None, help=shown)


@click.group()
def command() -> None:
    """The system as files for a container host."""


@command.command()
@environment_option
@_into("compose")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where the gateway's port is published.")
@_diff_option
@_anyway_option
@_settled_option
@here
def compose(here: Here, environment: str, into: Path | None, address: str, **flags: bool) -> int:
    """A Compose file, what it mounts, and secrets that are not there yet.

    Then `docker compose up -d` in that folder starts the system; `atoll build` makes its images.
    """
    from atoll.deploy.bus import compose_hosts
    from atoll.deploy.certificates import BusCertificates
    from atoll.deploy.compose import Told, cells, render
    from atoll.deploy.files import read_numbers
    from atoll.deploy.secrets import BUS_CONFIGURATION, SETTLED_CONFIGURATION, Keeper, secret_files
    from atoll.provision.secrets import Secrets

    folder = into or here.folder / "deploy" / "compose"
    plan = _with_former(planned(here, environment), folder, settled=flags["settled"])
    numbers = cells(read_numbers(folder / "cells.json"), [part.name for part in plan.members])
    texts = render(plan, Told(_references(plan), numbers, address))
    if flags["only_shown"]:
        return _show(folder, texts)
    if not flags["anyway"]:
        _check(folder, texts)
    secrets = folder / "secrets"
    kept, certificates = Secrets(secrets / _KEPT), BusCertificates(secrets)
    retired = _retired(secrets / BUS_CONFIGURATION, plan.contracts)
    keeper = Keeper(kept.of, _given(plan, secrets / "given"), certificates.of, retired, bus=compose_hosts(plan))
    settled = secret_files(replace(plan, former=()), keeper)[BUS_CONFIGURATION]
    _write(folder, texts, {**secret_files(plan, keeper), SETTLED_CONFIGURATION: settled}, (kept, certificates))
    return 0


@command.command()
@environment_option
@_into("kubernetes")
@_diff_option
@_anyway_option
@_settled_option
@click.option("--pinned", is_flag=True, help="Refuse an image that no push has given a digest.")
@here
def kubernetes(here: Here, environment: str, into: Path | None, **flags: bool) -> int:
    """Manifests: a kustomize base, overlays (dev, production, operators, podman), and secrets for dev that are not there yet.

    Then `kubectl apply -k overlays/dev` in that folder; `atoll build --push` makes the images.
    """
    from atoll.deploy.bus import BusHosts
    from atoll.deploy.certificates import BusCertificates
    from atoll.deploy.entrance import CERTIFICATE, KEY
    from atoll.deploy.kubernetes import BUS_FILE, Told, host, render, secret_generators, three_servers
    from atoll.deploy.secrets import BUS_CONFIGURATION, OF_BUS, Keeper, bus_file, given_names, secret_files
    from atoll.provision.secrets import Secrets

    folder, only_shown = into or here.folder / "deploy" / "kubernetes", flags["only_shown"]
    plan = _with_former(planned(here, environment), folder, settled=flags["settled"])
    kept, given = Secrets(folder / "secrets" / _KEPT), _given(plan, folder / "secrets" / "given")
    certificates = BusCertificates(folder / "secrets")

    def password(name: str) -> str:
        return kept.seed(name) if name.startswith(OF_BUS) else kept.of(name)

    # What would change can be seen without secrets, as in CI.
    given = dict.fromkeys(given_names(plan) if only_shown else (CERTIFICATE, KEY), "") | given
    # The certificate is for the names of three, so that nothing but their number differs where there is one.
    keeper = Keeper(password, given, certificates.of, _retired(folder / BUS_FILE, plan.contracts), host, three_servers())
    secrets = secret_files(plan, keeper)
    images = _pinned(here, plan, strictly=flags["pinned"])
    texts = render(plan, Told(images, bus_file(plan, keeper, BusHosts()), secrets.pop(BUS_CONFIGURATION)))
    if only_shown:
        return _show(folder, texts if (folder / "secrets" / _KEPT).exists() else _without(texts, BUS_CONFIGURATION))
    if not flags["anyway"]:
        _check(folder, texts)
    generators = secret_generators(plan, certified=bool(given[CERTIFICATE]))
    _write(folder, texts, {**_filled(secrets), "kustomization.yaml": generators}, (kept, certificates))
    return 0


def _with_former(plan: Plan, folder: Path, *, settled: bool) -> Plan:
    """What ran before may go on until it has left."""
    from atoll.deploy.files import read_rendered
    from atoll.deploy.provisioning import former

    return plan if settled else replace(plan, former=former(read_rendered(folder, ()), plan))


def _filled(secrets: Mapping[str, str]) -> dict[str, str]:
    """Without the certificate that somebody else brings, as cert-manager does."""
    from atoll.deploy.entrance import TLS

    return {name: text for name, text in secrets.items() if text or not name.startswith(f"{TLS}/")}


def _given(plan: Plan, folder: Path) -> dict[str, str]:
    from atoll.deploy.files import read_given, read_pair

    return read_given(folder) | read_pair(plan.system, folder, datetime.now(UTC))


def _without(texts: Mapping[str, str], name: str) -> dict[str, str]:
    click.echo(f"{name} is not compared: the keys of its users are not here", err=True)
    return {one: text for one, text in texts.items() if not one.endswith(f"/{name}")}


def _references(plan: Plan) -> dict[str, str]:
    from atoll.deploy.files import sources
    from atoll.deploy.images import images, reference

    found = sources(plan)
    return {name: reference(image, plan, found) for name, image in images(plan, found).items()}


def _pinned(here: Here, plan: Plan, *, strictly: bool) -> dict[str, str]:
    """With the digests that a push has left. Who has none is named; `strictly`, that is a SystemMistake."""
    from atoll.deploy import digests
    from atoll.deploy.files import read_digests

    found = digests.pinned(_references(plan), read_digests(here.folder / digests.FILE))
    if missing := digests.unpinned(found):
        detail = f"these images have no digest, because they were not pushed: {', '.join(missing)}"
        if strictly:
            raise SystemMistake(detail, where=str(here.folder / digests.FILE), hint="atoll build --push")
        click.echo(f"{detail}. `atoll build --push` writes it down", err=True)
    return found


def _write(folder: Path, texts: Mapping[str, str], secrets: Mapping[str, str], kept: tuple[Secrets, BusCertificates]) -> None:
    """Secrets first: a file that names one never comes before it."""
    from atoll.deploy.files import remove_contracts, write, write_secrets

    (folder / "secrets").mkdir(parents=True, exist_ok=True, mode=0o700)
    for one in kept:
        one.save()
    write_secrets(folder / "secrets", secrets)
    for name in write(folder, texts):
        click.echo(f"{folder / name} is written")
    for name in remove_contracts(folder, texts):
        click.echo(f"{folder / name} is removed")


def _retired(configuration: Path, contracts: Iterable[str]) -> set[str]:
    """The bus accounts of services that are no more: they stay, with their streams."""
    from atoll.provision.nats import account, accounts

    before = accounts(configuration.read_text()) if configuration.exists() else set()
    return before - {account(name) for name in contracts}


def _check(folder: Path, texts: Mapping[str, str]) -> None:
    """Raises SystemMistake that names every consumer that would break for good."""
    from atoll.deploy.changes import changes
    from atoll.deploy.files import read_rendered

    if broken := changes(read_rendered(folder, texts), texts).refused:
        hint = "let the consumer need less, or publish what it needs beside it; --anyway writes it all the same"
        raise SystemMistake("nothing is rendered:\n" + "\n".join(broken), hint=hint)


def _show(folder: Path, texts: Mapping[str, str]) -> int:
    from atoll.deploy.changes import changes
    from atoll.deploy.files import read_rendered

    found = changes(read_rendered(folder, texts), texts)
    if found.any:
        click.echo(str(found))
    return 2 if found.broken else int(found.any)
