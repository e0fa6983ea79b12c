"""A database for each service that has one: its own server process for PostgreSQL and MongoDB, a file for SQLite.

Each server belongs to one service, so databases fail alone. A missing engine is an EngineOutage for that service only.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from atoll.engines import mongodb, postgres
from atoll.errors import Bug
from atoll.host.machine import Machine
from atoll.host.probes import until_ready
from atoll.host.processes import LOOPBACK, ProcessSpec, engine_process
from atoll.system.manifest import Secret

__all__ = ["Databases"]


@dataclass(frozen=True, slots=True)
class _Mark:
    """Remembers that a server was provisioned with exactly these values, so that a warm start needs no driver for it."""

    path: Path
    values: tuple[object, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.values).encode()).hexdigest()

    def stands(self) -> bool:
        try:
            return self.path.read_text() == self.digest
        except OSError:
            return False

    def set(self) -> None:
        self.path.write_text(self.digest)


@dataclass
class Databases:
    """`versions` by kind, of the engines in use."""

    machine: Machine
    versions: dict[str, str] = field(default_factory=dict)

    async def open(self, service: str, kind: str | None, external: Secret | None = None) -> str:
        """The URL of `service`'s database, which takes connections when this returns; "" when it has none.

        `external` names the environment variable of a database that somebody else runs, if it is set. Raises EngineOutage.
        """
        if kind is None:
            return ""
        if external is not None and (url := self.machine.variables.get(external.name.upper())):
            return url
        if kind == "sqlite":
            return f"sqlite://{self.machine.layout.sqlite(service)}"
        if kind == "postgresql":
            return await self._postgresql(service)
        if kind == "mongodb":
            return await self._mongodb(service)
        raise Bug(f"{service}: a database of kind {kind!r} is unknown")

    async def _mongodb(self, service: str) -> str:
        from atoll.provision.mongodb import url

        machine, name = self.machine, f"{service}.mongodb"
        binary = mongodb.find()
        self.versions["mongodb"] = await asyncio.to_thread(machine.versions.of, binary, mongodb.version)
        data = machine.layout.service_data(service) / "mongodb"
        settings = mongodb.Settings(data, machine.ports.lease(name), machine.secrets.of(f"{name}.key"))
        administrator, password = machine.secrets.of(f"{name}.administrator"), machine.secrets.of(f"{name}.{service}")
        machine.secrets.save()
        mark = _Mark(data.with_suffix(".provisioned"), (settings, administrator, password))
        command = mongodb.command(binary, settings, machine.layout.log(name))
        spec = engine_process(name, "database", command, port=settings.port, variables=machine.variables, service=service)

        async def ready(_spec: ProcessSpec) -> None:
            if mark.stands():
                await until_ready(lambda: mongodb.ready(LOOPBACK, settings.port))
                return
            from atoll.provision.mongodb import Server, provision

            await provision(Server(settings.port, administrator), {service: password}, spec.start_timeout_s)
            mark.set()

        await machine.supervisor.start(spec, ready)
        return url(settings.port, service, password)

    async def _postgresql(self, service: str) -> str:
        from atoll.provision.postgres import socket_url

        machine, name = self.machine, f"{service}.postgresql"
        binary = postgres.find()
        self.versions["postgresql"] = await asyncio.to_thread(machine.versions.of, binary, postgres.version)
        settings = postgres.Settings(machine.layout.service_data(service) / "postgres", machine.ports.lease(name))
        administrator, password = machine.secrets.of(f"{name}.administrator"), machine.secrets.of(f"{name}.{service}")
        machine.secrets.save()
        place = await asyncio.to_thread(postgres.prepare, binary, settings)
        mark = _Mark(settings.data.with_suffix(".provisioned"), (settings, place, administrator, password))
        command = postgres.command(binary, settings, machine.layout.log(name))
        plan = engine_process(name, "database", command, port=settings.port, variables=machine.variables, service=service)

        async def ready(_spec: ProcessSpec) -> None:
            await until_ready(lambda: postgres.ready(settings))
            if mark.stands():
                return
            from atoll.provision.postgres import Server, provision

            await provision(Server(settings, administrator), {service: password})
            mark.set()

        await machine.supervisor.start(replace(plan, stop_signal=postgres.STOP), ready)
        return socket_url(settings, service, password)
