"""What `build` and `render` begin with: the system in an environment, with contracts that are the accepted ones."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import click

from atoll.cli.here import aside
from atoll.errors import SystemMistake
from atoll.system import files

if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll.cli.here import Here
    from atoll.deploy.plan import Plan
    from atoll.system.contract import Contract
    from atoll.system.manifest import System

__all__ = ["environment_option", "planned"]

environment_option: Callable[[Any], Any] = click.option(
    "--environment", default="", metavar="NAME", help="Lay [environments.NAME] of the manifest over the rest."
)


def planned(here: Here, environment: str) -> Plan:
    """Raises SystemMistake: a contract is not the accepted one, or something can't be rendered yet."""
    from atoll.deploy.plan import plan

    system = files.read(here.folder, environment)
    return plan(system, *asyncio.run(_contracts(here, system)))


async def _contracts(here: Here, system: System) -> tuple[dict[str, Contract], dict[str, Contract]]:
    """Of services, and of canaries: those are accepted when they become the service's."""
    from atoll.host.canaries import derive
    from atoll.host.contracts import Deriver, check
    from atoll.system.auth import auth_service
    from atoll.system.plan import AUTH

    here.layout.contracts.mkdir(parents=True, exist_ok=True)
    deriver = Deriver(system, here.layout.contracts, dict(os.environ), aside)
    specs = [auth_service(system), *(spec for spec in system.services if spec.kind != "simulator")]
    found = dict(zip((spec.name for spec in specs), await asyncio.gather(*map(deriver.contract, specs)), strict=True))
    check(system, found)
    own = {name: one for name, one in found.items() if name != AUTH and not system.service(name).command}
    if differences := files.compare(system, own):
        raise SystemMistake("\n".join(map(str, differences)), hint="containers are made from accepted contracts only")
    return found, {
        spec.name: (await derive(deriver, spec, found[spec.name])).contract for spec in system.services if spec.canary
    }
