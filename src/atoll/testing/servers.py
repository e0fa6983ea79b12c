"""Database servers for tests: one per kind and test run, started when the first test needs it, gone with the run.

A run that is killed leaves nothing either: a watcher of each server waits for the end of its pipe.
"""

from __future__ import annotations

import asyncio
import atexit
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from atoll.engines.process import Process

__all__ = ["Mongod", "PostgreSQL", "mongod", "postgresql"]

S = TypeVar("S", "PostgreSQL", "Mongod")

_WATCH = """
import os, shutil, signal, sys
sys.stdin.read()
try:
    os.killpg(int(sys.argv[1]), signal.SIGKILL)
except ProcessLookupError:
    pass
for folder in sys.argv[2:]:
    shutil.rmtree(folder, ignore_errors=True)
"""
_lock = threading.Lock()
_running: dict[type[Any], Any] = {}


def postgresql() -> PostgreSQL:
    """The run's PostgreSQL. Blocking: call it in a thread."""
    return _the(PostgreSQL)


def mongod() -> Mongod:
    """The run's mongod. Blocking: call it in a thread."""
    return _the(Mongod)


def _the(kind: type[S]) -> S:
    with _lock:
        if kind not in _running:
            _running[kind] = server = kind(Path(tempfile.mkdtemp(prefix="atoll-test-")))
            atexit.register(server.remove)
            server.start()
        found: S = _running[kind]
        return found


@dataclass
class _Server:
    """What both have in common: a folder, a process, and its watcher."""

    folder: Path
    password: str = field(default_factory=lambda: secrets.token_hex(8))
    port: int = field(default_factory=lambda: _free_port())
    process: Process | None = None
    watcher: subprocess.Popen[bytes] | None = None

    def watched(self, process: Process, *folders: Path) -> None:
        self.process = process
        arguments = [sys.executable, "-S", "-c", _WATCH, str(process.pid), str(self.folder), *map(str, folders)]
        self.watcher = subprocess.Popen(arguments, stdin=subprocess.PIPE, start_new_session=True)

    def stop(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.stop(how)
        if self.watcher is not None and self.watcher.stdin is not None:
            self.watcher.stdin.close()
            self.watcher.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgreSQL(_Server):
    """One server; a database per call, copied from a template that is made at the first call for its name."""

    def start(self) -> None:
        from atoll.engines import postgres as engine

        settings = self._settings()
        binary = engine.find()
        place = engine.prepare(binary, settings)
        process = Process.start(engine.command(binary, settings, self.folder / "postgres.log"))
        self.watched(process, place)
        asyncio.run(process.wait_ready(lambda: engine.ready(settings)))

    def remove(self) -> None:
        from atoll.engines import postgres as engine

        self.stop(signal.SIGQUIT)
        engine.delete(self._settings())

    def template(self, name: str) -> str:
        """The URL of a new, empty database with a role of its own."""
        from atoll.provision import postgres as provision

        asyncio.run(provision.provision(provision.Server(self._settings(), self.password), {name: self.password}))
        return provision.url(self.port, name, self.password)

    def copy(self, template: str) -> tuple[str, Callable[[], None]]:
        """The URL of a copy of that database, and what removes it. Nobody may be connected to the template."""
        name = f"{template}_{secrets.token_hex(4)}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER "{template}"')
        url = f"postgresql://{template}:{self.password}@127.0.0.1:{self.port}/{name}"
        return url, lambda: self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        import asyncpg

        async def execute() -> None:
            connection = await asyncpg.connect(
                host="127.0.0.1", port=self.port, user="postgres", password=self.password, database="postgres", ssl=False
            )
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(execute())

    def _settings(self) -> Any:
        from atoll.engines import postgres as engine

        return engine.Settings(self.folder / "data", self.port)


class Mongod(_Server):
    """One server; a database with a user of its own per call."""

    def start(self) -> None:
        from atoll.engines import mongodb as engine
        from atoll.provision import mongodb as provision

        settings = engine.Settings(self.folder / "data", self.port, secrets.token_hex(32))
        self.watched(Process.start(engine.command(engine.find(), settings, self.folder / "mongod.log")))
        asyncio.run(provision.provision(provision.Server(self.port, self.password), {}))

    def remove(self) -> None:
        self.stop(signal.SIGKILL)

    def database(self, name: str) -> str:
        """The URL of a new database."""
        from atoll.provision import mongodb as provision

        asyncio.run(provision.provision(provision.Server(self.port, self.password), {name: self.password}))
        return provision.url(self.port, name, self.password)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
