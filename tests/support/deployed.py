"""The shop as it would be deployed: its plan, from accepted contracts, without deriving anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from atoll.auth.service import auth
from atoll.deploy.plan import Plan, plan
from atoll.service.describe import describe
from atoll.system import files
from atoll.system.contract import Contract
from atoll.system.manifest import CanarySpec, System
from tests.support.system import ROOT

SHOP = ROOT / "examples" / "shop"


def contracts_of(system: System) -> dict[str, Contract]:
    """The accepted ones, and auth's."""
    found = {"auth": Contract.parse(describe(auth(system.auth.database)))}
    for spec in system.services:
        if spec.kind != "simulator":
            accepted = files.accepted(system, spec.name)
            assert accepted is not None, spec.name
            found[spec.name] = accepted
    return found


def with_canary(found: Plan, service: str, contract: Contract | None = None) -> Plan:
    """Beside it, two replicas of another version for thirty of a hundred clients; with the same contract, or that one."""
    trial = CanarySpec(found.system.folder / "services" / f"{service}-next", weight=30, replicas=2)
    services = tuple(replace(spec, canary=trial) if spec.name == service else spec for spec in found.system.services)
    tried = {service: contract or found.contracts[service]}
    return plan(replace(found.system, services=services), found.contracts, tried)


def shop_plan(folder: Path = SHOP) -> Plan:
    system = files.read(folder, "containers")
    return plan(system, contracts_of(system))
