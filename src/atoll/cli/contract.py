"""`atoll contract accept [NAME]`: the derived contracts become the accepted ones."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atoll.cli.here import Here, aside, here, json_option

if TYPE_CHECKING:
    from atoll.system.contract import Contract

__all__ = ["command"]


@click.group()
def command() -> None:
    """Contracts in contracts/, which git keeps: what `up --frozen`, CI and other teams hold a service to."""


@command.command()
@click.argument("name", required=False)
@json_option
@here
def accept(here: Here, name: str | None, as_json: bool) -> None:
    """Write NAME's derived contract, or everyone's, to contracts/."""
    done = [_accept(here, contract) for contract in asyncio.run(_derive(here, name))]
    if as_json:
        click.echo(json.dumps(done, indent=2))
    for one in done if not as_json else ():
        click.echo(f"{one['service']}: {one['state']}" + ("" if one["state"] == "unchanged" else f", {one['file']}"))


def _accept(here: Here, contract: Contract) -> dict[str, str]:
    from atoll.system import files

    known = files.accepted(here.system, contract.service)
    same = known is not None and known.digest == contract.digest
    path = files.contract_path(here.system, contract.service) if same else files.accept(here.system, contract)
    state = "unchanged" if same else "changed" if known else "new"
    return {"service": contract.service, "state": state, "file": str(path.relative_to(here.folder))}


async def _derive(here: Here, name: str | None) -> list[Contract]:
    from atoll.host.contracts import Deriver, check

    derivable = [spec for spec in here.system.services if not spec.command]
    wanted = [here.system.service(name)] if name else derivable
    with tempfile.TemporaryDirectory(prefix="atoll-") as folder:
        deriver = Deriver(here.system, Path(folder), dict(os.environ), aside)
        derived = list(await asyncio.gather(*(deriver.contract(spec) for spec in wanted)))
    check(here.system, {contract.service: contract for contract in derived})
    return derived
