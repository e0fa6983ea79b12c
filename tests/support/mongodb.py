"""A real mongod for tests: one for the whole run, with authorization, and a database with its own user for each test."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from atoll.engines import mongodb as engine
from atoll.engines.process import Process
from atoll.provision import mongodb as provision
from tests.support.ports import free_port


@dataclass
class RunningMongod:
    """A mongod that can die and come back on its data."""

    folder: Path
    settings: engine.Settings
    password: str
    process: Process = field(init=False)

    @classmethod
    def start(cls, folder: Path) -> RunningMongod:
        """Started, and provisioned with its administrator only."""
        settings = engine.Settings(folder / "data", free_port(), secrets.token_hex(32))
        running = cls(folder, settings, secrets.token_hex(8))
        running.spawn()
        asyncio.run(provision.provision(running.server, {}))
        return running

    @property
    def server(self) -> provision.Server:
        return provision.Server(self.settings.port, self.password)

    def spawn(self) -> None:
        self.process = Process.start(engine.command(engine.find(), self.settings, self.folder / "mongod.log"))

    def kill(self) -> None:
        """kill -9: what was not in its journal is gone."""
        self.process.kill()

    async def restart(self) -> None:
        """Started again after `kill`; returns when it can be written to."""
        self.spawn()
        await self.process.wait_ready(lambda: engine.ready("127.0.0.1", self.settings.port))

    def remove(self) -> None:
        self.kill()

    def database(self, name: str = "") -> str:
        """The URL of a new service's own database. Not from within an event loop."""
        name = name or f"s{secrets.token_hex(6)}"
        password = secrets.token_hex(8)
        asyncio.run(provision.provision(self.server, {name: password}))
        return provision.url(self.settings.port, name, password)


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMongod]:
    """Shared by the whole run: never kill this one, start your own with `RunningMongod.start`."""
    running = RunningMongod.start(tmp_path_factory.mktemp("mongod"))
    yield running
    running.kill()


@pytest.fixture
def mongodb_url(mongod: RunningMongod) -> str:
    """A new database of its own, with a user who may touch nothing else."""
    return mongod.database()
