"""Canaries: replicas of a service with another version's code. They have its name, its database and its user on the bus.

They stand in a group of their own beside the service's replicas (`orders-canary`), so that restarts, scaling and reloads of the
service leave them alone; the gateway tells them by their names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from atoll.errors import AtollError, EngineOutage, SystemMistake
from atoll.host.contracts import Deriver, check
from atoll.registry.replica import canaries
from atoll.system.contract import Contract
from atoll.system.manifest import ServiceSpec, System

if TYPE_CHECKING:
    from atoll.host.host import Host

__all__ = ["Trial", "abort", "derive", "group", "promote", "spec_of", "tried", "weigh"]


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
        hint = f'[services.{spec.name}.canary] folder = "services/{spec.name}-next", and `atoll up`'
        raise SystemMistake(f"{spec.name} has no canary now", where=spec.where, hint=hint)
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
    async with _change(host, name):
        tried(host.spec(name))  # it may have gone while another change was waited for
        await _weigh(host, name, weight)
    return weight


async def promote(host: Host, name: str, say: Callable[[str], None]) -> ServiceSpec:
    """Its version becomes the service's: replicas are replaced one by one by as many of it, then the canaries go. No request
    fails, and a client that met the canary meets its version all the time.

    Raises SystemMistake when there is none, Died when it can't start in the service's place: then the service keeps its own;
    EngineOutage as `abort` does.
    """
    async with _change(host, name):
        former = host.spec(name)
        promoted = replace(tried(former), replicas=former.replicas)
        if name in host.commands.lent:
            raise SystemMistake(f"{name} runs in a foreground", hint="end `atoll run` first")
        await _take_over(host, promoted, say)
        return await _end(host, name)


async def abort(host: Host, name: str) -> None:
    """Everybody meets the service again, then the canaries go. No request of what the service offers fails.

    Raises SystemMistake when there is none, EngineOutage when the gateway does not confirm that nobody is sent to them: then
    they stay, and can be ended again.
    """
    async with _change(host, name):
        tried(host.spec(name))
        await _end(host, name)


def _change(host: Host, name: str) -> asyncio.Lock:
    """One change of a service's canaries at a time."""
    return host.replicas.lock(f"{group(name)}, its share")


async def _take_over(host: Host, promoted: ServiceSpec, say: Callable[[str], None]) -> None:
    """As a reload does it. After a failure the rest of the old replicas goes on, beside the new ones that did start."""
    name = promoted.name
    spec, contract = host.spec(name), host.contracts[name]
    host.specs[name], host.contracts[name] = promoted, host.bus.trials[name].contract
    try:
        await host.bus.announce(host.contracts)
        await host.replicas.roll(name, say)
    except AtollError:
        host.specs[name], host.contracts[name] = spec, contract
        await host.bus.announce(host.contracts)
        raise


async def _end(host: Host, name: str) -> ServiceSpec:
    """First nobody is sent to them, then they go: a share of the clients without a replica would be a share of failures."""
    await _weigh(host, name, 0)
    host.specs[name] = replace(host.spec(name), canary=None)
    await host.replicas.stop(group(name))
    del host.bus.trials[name]
    await host.bus.narrow(host.contracts)
    await host.bus.announce(host.contracts)
    return host.specs[name]


async def _weigh(host: Host, name: str, weight: int) -> None:
    host.bus.trials[name] = replace(host.bus.trials[name], weight=weight)
    await host.bus.announce(host.contracts)
    if not await host.gateway.confirm_share(name, weight):
        hint = "`atoll logs gateway` says why; it counts as soon as the gateway has it"
        raise EngineOutage(f"the gateway has not confirmed yet that {weight} of a hundred clients meet the canary", hint=hint)
