"""`atoll rollout SERVICE`: another version of one service, without a failed request."""

from __future__ import annotations

from pathlib import Path

import click

from atoll.cli.here import Here, here

__all__ = ["command"]


@click.command()
@click.argument("service")
@click.option("--in", "folder", type=click.Path(path_type=Path), default=None, help="Default: deploy/compose of the system.")
@here
def command(here: Here, service: str, folder: Path | None) -> None:
    """Replace SERVICE's containers by those that the rendered Compose file asks for, without a failed request.

    The new ones start beside the old ones; these leave when the gateway has confirmed those. When the new ones do not become
    healthy they are removed, and nothing has changed. A canary that is rendered no longer ends: the gateway confirms that
    nobody is sent to it, then it leaves.
    """
    from atoll.deploy.docker import Docker
    from atoll.deploy.rollout import Rollout

    Rollout(Docker.find(), folder or here.folder / "deploy" / "compose", click.echo).run(service)
