"""A real PostgreSQL for tests: one server for the whole run, and a database with its own role for each test."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from atoll.engines import postgres as engine
from atoll.engines.process import Process
from atoll.provision import postgres as provision
from tests.support.ports import free_port


@dataclass
class RunningPostgres:
    """A PostgreSQL that can die and come back on its data."""

    settings: engine.Settings
    password: str
    process: Process = field(init=False)

    @property
    def server(self) -> provision.Server:
        return provision.Server(self.settings, self.password)

    def spawn(self) -> None:
        binary = engine.find()
        engine.prepare(binary, self.settings)
        command = engine.command(binary, self.settings, self.settings.data.parent / "postgres.log")
        self.process = Process.start(command)

    async def wait_ready(self) -> None:
        await self.process.wait_ready(lambda: engine.ready(self.settings))

    def kill(self) -> None:
        """kill -9, of all its processes."""
        self.process.kill()

    async def restart(self) -> None:
        """Started again after `kill`; returns when it accepts connections."""
        self.spawn()
        await self.wait_ready()

    async def new_database(self, name: str = "") -> str:
        """The URL of a new service's own database."""
        name = name or f"s{secrets.token_hex(6)}"
        password = secrets.token_hex(8)
        await provision.provision(self.server, {name: password})
        return provision.url(self.settings, name, password)

    def database(self, name: str = "") -> str:
        """The same, not from within an event loop."""
        return asyncio.run(self.new_database(name))


@contextmanager
def running_postgres() -> Iterator[RunningPostgres]:
    """A server of the test's own. Its folder is open to the user it runs as under root, which tmp_path is not."""
    folder = Path(tempfile.mkdtemp(prefix="atoll-pg-"))
    os.chmod(folder, 0o711)
    running = RunningPostgres(engine.Settings(folder / "postgres", free_port()), secrets.token_hex(8))
    try:
        running.spawn()
        asyncio.run(running.wait_ready())
        yield running
    finally:
        running.process.stop(engine.STOP)
        engine.delete(running.settings)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[RunningPostgres]:
    """Shared by the whole run: never kill this one, start your own with `running_postgres`."""
    with running_postgres() as running:
        yield running


@pytest.fixture
def postgres_url(postgres_server: RunningPostgres) -> str:
    """A new database of its own, with a role that owns it."""
    return postgres_server.database()
