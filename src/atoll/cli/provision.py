"""`atoll provision`: a container's one task, and a job's."""

from __future__ import annotations

import asyncio
import os

import click

__all__ = ["command"]


@click.command()
def command() -> None:
    """Make the bus what the contracts need: permissions, streams, durables, contracts. Once, for containers; then it ends.

    Told by environment variables alone (docs/reference/environment.md). It may be repeated at any time.
    """
    from atoll.provision.job import Job
    from atoll.system.variables import with_files

    for line in asyncio.run(Job.read(with_files(os.environ)).run()) or ["nothing to do"]:
        click.echo(line)
