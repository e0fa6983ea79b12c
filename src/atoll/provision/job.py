"""`atoll provision`: makes the bus what the contracts need, once, and ends. Idempotent; whoever deploys runs it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from atoll.errors import SystemMistake
from atoll.provision import nats
from atoll.provision.bus import Administrator
from atoll.system.budgets import BUDGETS
from atoll.system.contract import Contract
from atoll.system.files import load_contract
from atoll.system.plan import BusPlan

__all__ = ["CANARIES_FOLDER", "CONTRACTS_FOLDER", "CONTRACT_FOLDERS", "FORMER_FOLDER", "SYSTEM_FILE", "Job"]

SYSTEM_FILE = "system.json"
CONTRACTS_FOLDER = "contracts"
CANARIES_FOLDER = "canaries"
FORMER_FOLDER = "former"
CONTRACT_FOLDERS = (CONTRACTS_FOLDER, CANARIES_FOLDER, FORMER_FOLDER)


@dataclass(frozen=True, slots=True)
class Job:
    """`system` is the bucket's document without digests, `contracts` those that hold from now on, `tried` those of
    canaries beside them, `former` those that hold for as long as replicas have them.
    """

    system: Mapping[str, Any]
    contracts: Mapping[str, Contract]
    administrator: Administrator
    tried: tuple[Contract, ...] = ()
    former: tuple[Contract, ...] = ()

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Job:
        """From ATOLL_PROVISION_DIR, ATOLL_BUS_ADDRESS, ATOLL_BUS_USERS and, where the bus speaks TLS, ATOLL_BUS_CA.

        Raises SystemMistake that says what is wrong.
        """
        names = ("ATOLL_PROVISION_DIR", "ATOLL_BUS_ADDRESS", "ATOLL_BUS_USERS")
        if missing := [name for name in names if not variables.get(name)]:
            raise SystemMistake(
                f"these environment variables are missing: {', '.join(missing)}", hint="docs/reference/environment.md"
            )
        folder = Path(variables["ATOLL_PROVISION_DIR"])
        contracts = _contracts(folder / CONTRACTS_FOLDER)
        tried, former = (tuple(_contracts(folder / name).values()) for name in (CANARIES_FOLDER, FORMER_FOLDER))
        plan = BusPlan.of(contracts, beside=(*tried, *former))
        entrance = _entrance(variables["ATOLL_BUS_ADDRESS"], variables.get("ATOLL_BUS_CA", ""))
        server = nats.BusServer("", 0, Path())  # its configuration is written by who rendered it
        administrator = Administrator(plan, server, _passwords(plan, variables["ATOLL_BUS_USERS"]), entrance)
        return cls(_system(folder / SYSTEM_FILE), contracts, administrator, tried, former)

    async def run(self) -> list[str]:
        """What was done. Raises BusOutage: the bus does not answer, or refuses its configuration.

        What the services hold is announced last: before that, the gateway routes to nobody new.
        """
        await self.administrator.reload()
        running = await self.administrator.digests()
        staying = [one for one in self.former if not self._has_left(one, running.get(one.service, set()))]
        said = [f"{one.service}: replicas of the contract {one.digest} may still consume what it does" for one in staying]
        said += await self._make(BusPlan.of(self.contracts, beside=(*self.tried, *staying)))
        if await self.administrator.announce(self.system, self.contracts, self.tried):
            said.append("contracts announced")
        purged = await self.administrator.purge(BUDGETS.inbox_kept_s)
        return [*said, *(f"{count} old events of {stream} purged" for stream, count in purged.items())]

    def _has_left(self, one: Contract, running: set[str]) -> bool:
        """Only when its successor has come: before that, it may be about to start again."""
        return self.contracts[one.service].digest in running and not running & {one.digest, ""}

    async def _make(self, plan: BusPlan) -> list[str]:
        """What had to be done for that. Durables that a service wants no more go, since they would hold events back; those of a
        service that is gone stay, as its stream does.
        """
        administrator = replace(self.administrator, plan=plan)
        made = await administrator.make()
        gone = [one for one in made.leftovers if one.partition("/")[2] in self.contracts]
        await administrator.drop(gone)
        return [
            *made.changes,
            *(f"{one}: a new subscription, it starts with what comes now" for one in made.late),
            *(f"{one}: this durable is deleted, nobody uses it any more" for one in gone),
            *(f"{one}: nobody uses this durable, and it holds events back" for one in made.leftovers if one not in gone),
        ]


def _contracts(folder: Path) -> dict[str, Contract]:
    return {path.stem: load_contract(path) for path in sorted(folder.glob("*.json"))}


def _entrance(addresses: str, authorities: str) -> nats.Entrance:
    servers = tuple(addresses.split(","))
    for address in servers:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            hint = "it is host:port, like nats:4222; of several servers all, with commas"
            raise SystemMistake(f"ATOLL_BUS_ADDRESS is {addresses!r}", hint=hint)
    if len(servers) not in (1, 3):
        hint = "one, or three: two are no safer than one, and more are not tried"
        raise SystemMistake(f"ATOLL_BUS_ADDRESS names {len(servers)} servers", hint=hint)
    return nats.Entrance(servers, tls=bool(authorities), authorities=authorities)


def _passwords(plan: BusPlan, text: str) -> dict[str, str]:
    try:
        found = msgspec.json.decode(text, type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise SystemMistake(f"ATOLL_BUS_USERS can't be used: {error}", hint="a JSON object of users and passwords") from None
    if missing := [user for user in nats.users(plan) if nats.administers(user) and user not in found]:
        raise SystemMistake(f"ATOLL_BUS_USERS has no password for {', '.join(missing)}", hint="render again")
    return found


def _system(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise SystemMistake(f"the system's document can't be read: {error}", where=str(path)) from error
