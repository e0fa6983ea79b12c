"""Which parts a deployed system has: the plan that images, Compose and whatever else is rendered from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from atoll.deploy import entrance
from atoll.errors import SystemMistake
from atoll.registry.replica import canaries
from atoll.system.auth import auth_service
from atoll.system.contract import Contract
from atoll.system.manifest import Secret, ServiceSpec, System
from atoll.system.plan import AUTH, BusPlan

__all__ = ["SERVERS", "Database", "Part", "Plan", "plan"]

_OWN_NAMES = ("localhost", "127.0.0.1", "::1")
Kind = Literal["service", "client", "auth", "simulator"]
SERVERS = ("postgresql", "mongodb")
"""Kinds of databases that are servers; SQLite is a file in its service's own volume."""


@dataclass(frozen=True, slots=True)
class Database:
    """A service's own. `external` names the secret with the URL of somebody else's, which is then nobody's container."""

    kind: str
    external: Secret | None = None

    @property
    def served(self) -> bool:
        """Whether it has a container."""
        return self.kind in SERVERS and self.external is None


@dataclass(frozen=True, slots=True)
class Part:
    """Something with code of its own, and its replicas. `values` are its plain settings, `secrets` the others, by setting.

    `outside` names the simulators that it calls. `tries` is the service whose canary it is: it has that one's name in the
    system, its database and its secrets.
    """

    name: str
    kind: Kind
    spec: ServiceSpec
    contract: Contract | None = None
    database: Database | None = None
    replicas: int = 1
    values: Mapping[str, Any] | None = None
    secrets: Mapping[str, str] | None = None
    outside: tuple[str, ...] = ()
    tries: str = ""

    @property
    def service(self) -> str:
        """What it is called in the system."""
        return self.tries or self.name

    @property
    def foreign(self) -> bool:
        """Whether it is a program that knows nothing of atoll: a `command`, or a simulator."""
        return bool(self.spec.command)


@dataclass(frozen=True, slots=True)
class Plan:
    """`parts`: auth, then services and clients, canaries, simulators that somebody calls. `former` are contracts of replicas
    that may still run beside those of the present ones.
    """

    system: System
    parts: tuple[Part, ...]
    former: tuple[Contract, ...] = ()

    @property
    def contracts(self) -> dict[str, Contract]:
        return {part.name: part.contract for part in self.members if part.contract is not None}

    @property
    def canaries(self) -> dict[str, Part]:
        """By the service that they try another version of."""
        return {part.tries: part for part in self.parts if part.tries}

    @property
    def bus(self) -> BusPlan:
        """Clients are users of the bus here: nobody else could announce their addresses."""
        tried = [part.contract for part in self.canaries.values() if part.contract]
        return BusPlan.of(self.contracts, beside=(*self.former, *tried))

    @property
    def members(self) -> tuple[Part, ...]:
        """Those that belong to the system, each once."""
        return tuple(part for part in self.parts if part.kind != "simulator" and not part.tries)

    @property
    def database_kinds(self) -> tuple[str, ...]:
        """The kinds that need a server here."""
        used = {part.database.kind for part in self.parts if part.database and part.database.served}
        return tuple(kind for kind in SERVERS if kind in used)

    def part(self, name: str) -> Part:
        """Raises SystemMistake that names the parts there are."""
        for one in self.parts:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.parts)
        raise SystemMistake(f"there is no service {name!r} in containers", hint=f"there are {known}")


def plan(system: System, contracts: Mapping[str, Contract], tried: Mapping[str, Contract] | None = None) -> Plan:
    """`contracts` are the accepted ones, auth's beside them, `tried` those of canaries, by service.

    Raises SystemMistake for what can't be rendered yet.
    """
    _check(system)
    entrance.check(system)
    specs = (auth_service(system), *system.services)
    members = [_member(system, spec, contracts) for spec in specs if spec.kind != "simulator"]
    called = {name for part in members for name in part.outside}
    simulators = [_simulator(spec) for spec in system.services if spec.name in called]
    trials = [_canary(part, (tried or {})[part.name]) for part in members if part.spec.canary]
    return Plan(system, (*members, *trials, *simulators))


def _check(system: System) -> None:
    where = str(system.folder / "atoll.toml")
    endpoint = system.telemetry.otlp_endpoint
    if urlsplit(endpoint).hostname in _OWN_NAMES:
        hint = "name the collector as containers find it, [environments.NAME.telemetry] otlp_endpoint"
        raise SystemMistake(f"in a container, {endpoint} is that container itself", where=where, hint=hint)


def _member(system: System, spec: ServiceSpec, contracts: Mapping[str, Contract]) -> Part:
    contract = contracts[spec.name]
    if spec.name == AUTH:
        spec = replace(spec, outbound=_fetches(system))
    outside = tuple(sorted({name for value in spec.settings.values() for name in _simulators_in(system, value)}))
    return Part(
        name=spec.name,
        kind="auth" if spec.name == AUTH else "client" if spec.kind == "client" else "service",
        spec=spec,
        contract=contract,
        database=_database(system, spec, contract),
        replicas=min(spec.replicas, 1) if contract.database == "sqlite" else spec.replicas,
        values={key: value for key, value in spec.settings.items() if not isinstance(value, Secret)},
        secrets={key: value.name for key, value in spec.settings.items() if isinstance(value, Secret)},
        outside=outside,
    )


def _canary(stable: Part, contract: Contract) -> Part:
    spec = stable.spec
    assert spec.canary is not None
    tried = replace(spec, folder=spec.canary.folder, replicas=spec.canary.replicas, canary=None)
    name = canaries(stable.name)
    return replace(stable, name=name, spec=tried, contract=contract, replicas=spec.canary.replicas, tries=stable.name)


def _fetches(system: System) -> bool:
    """Whether auth fetches the keys of another issuer."""
    return any("jwks_file" not in one for one in system.auth.options.get("providers", {}).values())


def _database(system: System, spec: ServiceSpec, contract: Contract) -> Database | None:
    if contract.database is None:
        return None
    return Database(contract.database, system.auth.database_url if spec.name == AUTH else spec.database_url)


def _simulators_in(system: System, value: Any) -> list[str]:
    names = [spec.name for spec in system.services if spec.kind == "simulator"]
    return [name for name in names if isinstance(value, str) and f"{{{name}.url}}" in value]


def _simulator(spec: ServiceSpec) -> Part:
    if spec.command[:2] != ("python", "-m") or len(spec.command) < 3:
        hint = 'command = ["python", "-m", "PACKAGE", "--host", "{host}", "--port", "{port}"]'
        raise SystemMistake(f"the simulator {spec.name} is no package, so there is no image of it", where=spec.where, hint=hint)
    values = {key: value for key, value in spec.settings.items() if not isinstance(value, Secret)}
    return Part(spec.name, "simulator", spec, values=values)
