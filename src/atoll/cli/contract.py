"""`atoll contract accept [NAME]`: the derived contracts become the accepted ones."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atoll.cli.here import Here, here

if TYPE_CHECKING:
    from atoll.system.contract import Contract

__all__ = ["command"]


@click.group()
def command() -> None:
    """Contracts in contracts/, which git keeps: what `up --frozen`, CI and other teams hold a service to."""


@command.command()
@click.argument("name", required=False)
@here
def accept(here: Here, name: str | None) -> None:
    """Write NAME's derived contract, or everyone's, to contracts/."""
    from atoll.system import files

    for contract in asyncio.run(_derive(here, name)):
        known = files.accepted(here.system, contract.service)
        if known is not None and known.digest == contract.digest:
            click.echo(f"{contract.service}: unchanged")
            continue
        path = files.accept(here.system, contract)
        click.echo(f"{contract.service}: {'changed' if known else 'new'}, {path.relative_to(here.folder)}")


async def _derive(here: Here, name: str | None) -> list[Contract]:
    from atoll.host.contracts import Deriver

    derivable = [spec for spec in here.system.services if not spec.command]
    wanted = [here.system.service(name)] if name else derivable
    with tempfile.TemporaryDirectory(prefix="atoll-") as folder:
        deriver = Deriver(here.system, Path(folder), dict(os.environ))
        return list(await asyncio.gather(*(deriver.contract(spec) for spec in wanted)))
