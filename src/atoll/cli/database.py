"""`atoll database`: a service's own database server as a container's first process."""

from __future__ import annotations

import asyncio
import os

import click

__all__ = ["command"]


@click.command()
def command() -> int:
    """Run one service's own database server, in the foreground of a container, made ready for that service.

    Told by environment variables alone (docs/reference/environment.md).
    """
    from atoll.provision.database import Environment, run
    from atoll.system.variables import with_files

    return asyncio.run(run(Environment.read(with_files(os.environ))))
