"""Canaries: replicas of a service with another version's code. They have its name, its database and its user on the bus.

They stand in a group of their own beside the service's replicas (`orders-canary`), so that restarts, scaling and reloads of the
service leave them alone; the gateway tells them by their names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from atoll.errors import EngineOutage, SystemMistake
from atoll.host.contracts import Deriver, check
from atoll.registry.replica import canaries
from atoll.system.contract import Contract
from atoll.system.manifest import ServiceSpec, System

if TYPE_CHECKING:
    from atoll.host.host import Host

__all__ = ["Trial", "derive", "group", "spec_of", "tried", "weigh"]


@dataclass(frozen=True, slots=True)
class Trial:
    """What a canary offers and needs, and how many of a hundred clients meet it."""

    contract: Contract
    weight: int


def group(service: str) -> str:
    """What its canaries' slots are filled under."""
    return canaries(service)


def spec_of(system: System, name: str) -> ServiceSpec | None:
    """How the canaries that are called `name` as a group are made; None when `name` is no such group."""
    for spec in system.services:
        if spec.canary and name == group(spec.name):
            return tried(spec)
    return None


def tried(spec: ServiceSpec) -> ServiceSpec:
    """The service as its canary has it. Raises SystemMistake when it has none."""
    if spec.canary is None:
        hint = f'[services.{spec.name}.canary] folder = "services/{spec.name}-next"'
        raise SystemMistake(f"{spec.name} has no canary", where=spec.where, hint=hint)
    return replace(spec, folder=spec.canary.folder, python=spec.canary.python, replicas=spec.canary.replicas)


async def derive(deriver: Deriver, spec: ServiceSpec, stable: Contract) -> Trial:
    """Raises SystemMistake for a version that can't run beside `stable`."""
    own = replace(deriver, folder=deriver.folder / "canaries")
    own.folder.mkdir(exist_ok=True)
    contract = await own.contract(tried(spec))
    check(deriver.system, {spec.name: contract})
    if contract.database != stable.database:
        detail = f"the canary of {spec.name} has {contract.database or 'no'} database, {spec.name} {stable.database or 'none'}"
        raise SystemMistake(detail, where=spec.where, hint="both versions work on the same data")
    if contract.database == "sqlite":
        hint = "PostgreSQL takes many processes"
        raise SystemMistake(f"{spec.name} has its data in SQLite, which one replica writes", where=spec.where, hint=hint)
    return Trial(contract, spec.canary.weight if spec.canary else 0)


async def weigh(host: Host, name: str, weight: int) -> int:
    """Another share of clients, without a restart of anything; returns when the gateway keeps to it. Raises SystemMistake, and
    EngineOutage when the gateway does not confirm it.
    """
    tried(host.spec(name))
    if not 0 <= weight <= 100:
        raise SystemMistake(f"{weight} is no share: it is 0 to 100 of a hundred clients")
    host.bus.trials[name] = replace(host.bus.trials[name], weight=weight)
    await host.bus.announce(host.contracts)
    if not await host.gateway.confirm_share(name, weight):
        hint = "`atoll logs gateway` says why; it counts as soon as the gateway has it"
        raise EngineOutage(f"the gateway has not confirmed yet that {weight} of a hundred clients meet the canary", hint=hint)
    return weight
