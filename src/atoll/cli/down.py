"""`atoll down`: stop the running system."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import click

from atoll.cli.here import Here, here

if TYPE_CHECKING:
    from atoll.host.layout import Layout

__all__ = ["command"]


@click.command()
@click.option("--delete-data", is_flag=True, help="Also delete .atoll/: databases, events, secrets, logs.")
@here
def command(here: Here, delete_data: bool) -> None:
    """Stop the system: services drain, then engines; nothing is left running. Also cleans up after a kill -9."""
    from atoll.host.stop import stop

    stopped = stop(here.layout, click.echo)
    click.echo("stopped" if stopped else "nothing was running")
    if delete_data and _delete(here.layout):
        click.echo(f"deleted {here.layout.root}")


def _delete(layout: Layout) -> bool:
    """Whether there was anything. A PostgreSQL cluster may lie elsewhere, where the user it runs as can reach it."""
    from atoll.engines import postgres

    for data in layout.data.glob("*/postgres"):
        postgres.delete(postgres.Settings(data, port=0))
    if not layout.root.exists():
        return False
    shutil.rmtree(layout.root)
    return True
