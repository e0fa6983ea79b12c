"""`atoll describe NAME`: a contract as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path

import click

from atoll.cli.here import Here, aside, here

__all__ = ["command"]


@click.command()
@click.argument("name")
@here
def command(here: Here, name: str) -> None:
    """NAME's contract (OpenAPI 3.1 and AsyncAPI 3), derived from its code in a process without credentials."""
    from atoll.host.contracts import Deriver
    from atoll.system.auth import auth_service
    from atoll.system.plan import AUTH

    spec = auth_service(here.system) if name == AUTH else here.system.service(name)
    with tempfile.TemporaryDirectory(prefix="atoll-") as folder:
        contract = asyncio.run(Deriver(here.system, Path(folder), dict(os.environ), aside).contract(spec))
    click.echo(json.dumps(contract.document, indent=2, sort_keys=True, ensure_ascii=False))
