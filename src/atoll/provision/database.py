"""`atoll database`: one service's own database server in a container, which makes its one role and database itself.

Over loopback, inside the container: nobody else ever needs the administrator's password or a way in.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.engines import mongodb, postgres
from atoll.engines.foreground import Child, stop_signals
from atoll.engines.process import Command
from atoll.errors import EngineOutage, SystemMistake

__all__ = ["Environment", "run"]

_STDOUT = Path("/dev/stdout")
_PAUSE_S = 0.02
_START_S = 60.0
READY = "ready"
"""A file that is there as long as the service may connect."""


@dataclass(frozen=True, slots=True)
class Environment:
    """`key` is MongoDB's, which a replica set must have."""

    service: str
    kind: str
    folder: Path
    port: int
    password: str
    administrator: str
    key: str = ""

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Environment:
        """Raises SystemMistake that names what is missing or wrong."""
        kind = variables.get("ATOLL_DATABASE_KIND", "")
        names = ["ATOLL_SERVICE", "ATOLL_DATABASE_DIR", "ATOLL_DATABASE_PASSWORD", "ATOLL_DATABASE_ADMIN_PASSWORD"]
        names += ["ATOLL_DATABASE_KEY"] if kind == "mongodb" else []
        if missing := [name for name in names if not variables.get(name)]:
            raise SystemMistake(
                f"these environment variables are missing: {', '.join(missing)}", hint="docs/reference/environment.md"
            )
        if kind not in _SERVERS:
            hint = f"kinds with a server: {', '.join(_SERVERS)}"
            raise SystemMistake(f"ATOLL_DATABASE_KIND is {kind!r}", hint=hint)
        port = variables.get("ATOLL_DATABASE_PORT") or str(PORTS[kind])
        if not port.isdigit():
            raise SystemMistake(f"ATOLL_DATABASE_PORT is {port!r}", hint="a number")
        return cls(
            variables["ATOLL_SERVICE"],
            kind,
            Path(variables["ATOLL_DATABASE_DIR"]),
            int(port),
            variables["ATOLL_DATABASE_PASSWORD"],
            variables["ATOLL_DATABASE_ADMIN_PASSWORD"],
            variables.get("ATOLL_DATABASE_KEY", ""),
        )


@dataclass(frozen=True, slots=True)
class _Server:
    """How one kind is started, made ready for its service, and stopped."""

    command: Command
    provision: Callable[[], Coroutine[Any, Any, None]]
    stop: signal.Signals


async def run(environment: Environment) -> int:
    """Until SIGTERM: 0. What the server ended with, when it ended by itself. Raises EngineOutage."""
    environment.folder.mkdir(parents=True, exist_ok=True)
    ready = environment.folder / READY
    ready.unlink(missing_ok=True)
    server = await asyncio.to_thread(_SERVERS[environment.kind], environment)
    with stop_signals() as stop:
        child = await Child.start(server.command)
        ending, stopping = asyncio.create_task(child.wait()), asyncio.create_task(stop.wait())
        making = asyncio.create_task(_make_ready(server, ready))
        try:
            await asyncio.wait({ending, stopping, making}, return_when=asyncio.FIRST_COMPLETED)
            if making.done():
                making.result()  # raises why the server could not be made ready
                await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            by_itself = ending.done()
            await _end(child, server.stop, (stopping, making))
            ready.unlink(missing_ok=True)
    return (ending.result() or 1) if by_itself else 0


async def _end(child: Child, how: signal.Signals, tasks: tuple[asyncio.Task[Any], ...]) -> None:
    for task in tasks:
        task.cancel()
    await child.stop(how)


async def _make_ready(server: _Server, ready: Path) -> None:
    """Tries until it works: the server has only just been started."""
    end = asyncio.get_running_loop().time() + _START_S
    while True:
        try:
            await server.provision()
        except EngineOutage:
            if asyncio.get_running_loop().time() > end:
                raise
            await asyncio.sleep(_PAUSE_S)
            continue
        await asyncio.to_thread(ready.touch)
        return


def _postgresql(environment: Environment) -> _Server:
    from atoll.provision.postgres import Server, provision

    binary = postgres.find()
    settings = postgres.Settings(environment.folder / "postgres", environment.port, environment.folder, networked=True)
    postgres.prepare(binary, settings)

    async def make() -> None:
        if not await postgres.ready(settings):
            raise EngineOutage(f"PostgreSQL on port {settings.port} does not answer yet")
        await provision(Server(settings, environment.administrator), {environment.service: environment.password})

    return _Server(postgres.command(binary, settings, _STDOUT), make, postgres.STOP)


def _mongodb(environment: Environment) -> _Server:
    from atoll.provision.mongodb import Server, provision

    settings = mongodb.Settings(environment.folder / "mongodb", environment.port, environment.key, networked=True)
    command = mongodb.command(mongodb.find(), settings, _STDOUT)

    async def make() -> None:
        await provision(Server(settings.port, environment.administrator), {environment.service: environment.password}, _START_S)

    return _Server(command, make, signal.SIGTERM)


_SERVERS: dict[str, Callable[[Environment], _Server]] = {"postgresql": _postgresql, "mongodb": _mongodb}
PORTS = {"postgresql": 5432, "mongodb": 27017}
"""Where each kind listens unless it is told otherwise."""
