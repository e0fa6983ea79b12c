"""A real PostgreSQL for tests: one server for the whole run, and a database with its own role for each test."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from atoll.engines import postgres as engine
from atoll.engines.process import Process
from atoll.provision import postgres as provision
from tests.support.ports import free_port

__all__ = ["RunningPostgreSQL", "postgresql", "postgresql_url"]


@dataclass
class RunningPostgreSQL:
    """A server that can die and come back on its data."""

    folder: Path
    settings: engine.Settings
    password: str
    process: Process = field(init=False)

    @classmethod
    def start(cls, folder: Path) -> RunningPostgreSQL:
        """Started, and provisioned with its superuser only. Not from within an event loop."""
        running = cls(folder, engine.Settings(folder / "data", free_port()), secrets.token_hex(8))
        engine.prepare(engine.find(), running.settings)
        running.spawn()
        asyncio.run(running.ready())
        return running

    def spawn(self) -> None:
        self.process = Process.start(engine.command(engine.find(), self.settings, self.folder / "postgres.log"))

    async def ready(self) -> None:
        await self.process.wait_ready(lambda: engine.ready(self.settings))

    def kill(self) -> None:
        """kill -9: what was committed is there again after `restart`."""
        self.process.kill()

    async def restart(self) -> None:
        """Started again after `kill`; returns when it accepts connections."""
        self.spawn()
        await self.ready()

    def database(self, name: str = "") -> str:
        """The URL of a new service's own database. Not from within an event loop."""
        name = name or f"s{secrets.token_hex(6)}"
        password = secrets.token_hex(8)
        server = provision.Server(self.settings, self.password)
        asyncio.run(provision.provision(server, {name: password}))
        return provision.url(self.settings.port, name, password)

    def remove(self) -> None:
        self.process.stop(signal.SIGQUIT)  # at once: what it holds is deleted anyway
        engine.delete(self.settings)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPostgreSQL]:
    """Shared by the whole run: never kill this one, start your own with `RunningPostgreSQL.start`."""
    running = RunningPostgreSQL.start(tmp_path_factory.mktemp("postgresql"))
    yield running
    running.remove()


@pytest.fixture
def postgresql_url(postgresql: RunningPostgreSQL) -> str:
    """A new database of its own, with a role that may touch nothing else."""
    return postgresql.database()
