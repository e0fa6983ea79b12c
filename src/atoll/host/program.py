"""A `command` in a container: the program, and beside it who announces it, for it knows nothing of the bus.

It is announced when its port takes connections, and withdrawn before it is told to stop. When it ends, so does the container.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from atoll.bus.jetstream import JetStreamBus
from atoll.engines.foreground import Child, stop_signals
from atoll.engines.process import Command
from atoll.errors import SystemMistake
from atoll.registry.address import reachable_at
from atoll.registry.announcement import Announcement
from atoll.registry.replica import Replica
from atoll.system.budgets import BUDGETS
from atoll.system.variables import in_file, with_files

__all__ = ["Environment", "run"]

logger = logging.getLogger("atoll.program")

_PAUSE_S = 0.1
_STOP_S = BUDGETS.handler_s + 2.0
_STDOUT = Path("/dev/stdout")
_SECRETS = "/run/secrets/"


@dataclass(frozen=True, slots=True)
class Environment:
    """Read once, at start. `packages` is the folder with the program's own Python packages."""

    service: str
    command: tuple[str, ...]
    packages: str
    listen: str
    bus_url: str
    digest: str
    replica: str
    bus_ca: str = ""

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Environment:
        """Raises SystemMistake that names what is missing or wrong."""
        try:
            return cls(
                service=env["ATOLL_SERVICE"],
                command=_words(env["ATOLL_COMMAND"]),
                packages=env.get("ATOLL_COMMAND_PACKAGES", ""),
                listen=env["ATOLL_LISTEN"],
                bus_url=env["ATOLL_BUS_URL"],
                bus_ca=env.get("ATOLL_BUS_CA", ""),
                digest=env.get("ATOLL_CONTRACT_DIGEST", ""),
                replica=env.get("ATOLL_REPLICA") or f"{env['ATOLL_SERVICE']}-{socket.gethostname()}",
            )
        except KeyError as missing:
            raise SystemMistake(f"{missing.args[0]} is not set", hint="docs/reference/environment.md") from None

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])


def _words(text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(word, str) for word in found):
        raise SystemMistake(f"ATOLL_COMMAND is {text!r}", hint='a JSON list of words, like ["node", "server.js"]')
    return tuple(found)


def run(environ: Mapping[str, str]) -> int:
    """Until SIGTERM: 0. What the program ended with, when it ended by itself."""
    environment = Environment.read(with_files(environ))
    return asyncio.run(_run(environment, variables(environ, environment.packages)))


def variables(environ: Mapping[str, str], packages: str) -> dict[str, str]:
    """What the program is told beside all that this process is: secrets as values, and where its own packages are."""
    named = [name for name, value in environ.items() if name.endswith("_FILE") and value.startswith(_SECRETS)]
    ours = {name: value for name, value in with_files(environ).items() if name not in environ}
    settings = {plain: in_file(plain, environ) for name in named if (plain := name.removesuffix("_FILE")) not in ours}
    path = {"PATH": f"{packages}/bin:{environ.get('PATH', '')}", "PYTHONPATH": f"{packages}:{os.getcwd()}"}
    return {**ours, **settings, **(path if packages else {})}


async def _run(environment: Environment, told: Mapping[str, str]) -> int:
    with stop_signals() as stop:
        command = Command(environment.service, environment.command, Path.cwd(), _STDOUT, told)
        child = await Child.start(command)
        ending, stopping = asyncio.create_task(child.wait()), asyncio.create_task(stop.wait())
        async with asyncio.TaskGroup() as group:
            announcing = group.create_task(_announced(environment))
            await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
            announcing.cancel()
        if not stop.is_set():
            logger.error("%s ended with %s", environment.service, ending.result())
            return ending.result() or 1
        stopping.cancel()
        # Whoever has not heard yet still sends requests.
        await asyncio.wait({ending}, timeout=BUDGETS.drain_s)
        await child.stop(timeout_s=_STOP_S)
        return 0


async def _announced(environment: Environment) -> None:
    """From the moment when it takes connections until this is cancelled."""
    while not await asyncio.to_thread(_listens, environment.port):  # noqa: ASYNC110  # another process opens it
        await asyncio.sleep(_PAUSE_S)
    address = await reachable_at(environment.listen, environment.bus_url)
    bus = JetStreamBus(environment.bus_url, name=environment.replica, authorities=environment.bus_ca)
    await bus.start()
    announcement = Announcement(bus, Replica(environment.service, environment.replica, address, environment.digest))
    await announcement.start()
    try:
        await asyncio.Event().wait()
    finally:
        await announcement.withdraw()
        await bus.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
