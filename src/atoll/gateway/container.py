"""A whole gateway as one container: Envoy, its controller beside it, and what compares mirrors' answers where there is one.

They share files, so they share a container. Envoy is the one that matters: when it ends, so does this. The others are
started again; meanwhile Envoy goes on with what it has.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from atoll.engines import envoy
from atoll.engines.foreground import Child, stop_signals
from atoll.engines.process import Command
from atoll.errors import EngineOutage, SystemMistake
from atoll.gateway import drain
from atoll.gateway.admin import Admin
from atoll.gateway.environment import Environment
from atoll.gateway.exposed import Told, exposed
from atoll.gateway.ir import Endpoint
from atoll.gateway.report import families, is_whole, of_bus
from atoll.gateway.xds.folders import Folders

__all__ = ["run"]

logger = logging.getLogger("atoll.gateway")

_PAUSE_S = 0.02
_AGAIN_S = 1.0
_START_S = 30.0
_STDOUT = Path("/dev/stdout")


def run(environ: Mapping[str, str]) -> int:
    """Until SIGTERM, which drains first: 0. What Envoy ended with, when it ended by itself."""
    return asyncio.run(_run(Environment.read(environ), _metrics_at(environ)))


def _metrics_at(environ: Mapping[str, str]) -> Endpoint | None:
    said = environ.get("ATOLL_GATEWAY_METRICS")
    try:
        return Endpoint.parse(said) if said else None
    except ValueError as error:
        raise SystemMistake(f"ATOLL_GATEWAY_METRICS: {error}", hint="host:port, like 0.0.0.0:9902") from None


async def _run(environment: Environment, metrics_at: Endpoint | None) -> int:
    envoy.check_inotify()
    folders = Folders(str(environment.root))
    environment.root.mkdir(parents=True, exist_ok=True)
    _log_to_stdout(Path(folders.access_log))
    with stop_signals() as stop:
        async with _watched(environment, metrics_at), asyncio.TaskGroup() as keepers:
            kept = [keepers.create_task(_keep(command)) for command in _companions(environment)]
            try:
                return await _serve(environment, Path(folders.bootstrap), stop)
            finally:
                for task in kept:
                    task.cancel()


@asynccontextmanager
async def _watched(environment: Environment, at: Endpoint | None) -> AsyncIterator[None]:
    """Where monitoring may ask, if anywhere."""
    if at is None:
        yield
        return
    report = Path(Folders(str(environment.root)).applied)
    told = Told(lambda: [*families(report), *of_bus(environment.bus_ca)], lambda: is_whole(report))
    async with exposed(Admin(environment.admin), at, told):
        yield


async def _serve(environment: Environment, bootstrap: Path, stop: asyncio.Event) -> int:
    """Envoy's life. The controller writes what it starts with."""
    if not await _until_there(bootstrap, stop):
        return 0
    child = await Child.start(envoy.command(envoy.find(), bootstrap, _STDOUT, envoy.granted_workers()))
    ending, stopping = asyncio.create_task(child.wait()), asyncio.create_task(stop.wait())
    await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if ending.done():
        logger.error("Envoy ended with %s", ending.result())
        return ending.result() or 1
    admin = Admin(environment.admin)
    await drain.begin(admin)
    if not await drain.finish(admin):
        logger.warning("after %g s somebody still waits for an answer: a stream or a WebSocket, which ends now", drain.DRAIN_S)
    await child.stop()
    return 0


async def _until_there(bootstrap: Path, stop: asyncio.Event) -> bool:
    end = asyncio.get_running_loop().time() + _START_S
    while not await asyncio.to_thread(bootstrap.exists):
        if stop.is_set():
            return False
        if asyncio.get_running_loop().time() > end:
            raise EngineOutage(f"the controller has not written {bootstrap} within {_START_S:g} s", hint="its log says why")
        await asyncio.sleep(_PAUSE_S)
    return True


def _companions(environment: Environment) -> list[Command]:
    found = [_module("gateway", "atoll.gateway", environment.root)]
    if environment.listener.comparer is not None:
        found.append(_module("gateway-mirror", "atoll.gateway.mirror", environment.root))
    return found


def _module(name: str, module: str, folder: Path) -> Command:
    return Command(name, (sys.executable, "-P", "-m", module), folder, _STDOUT)


async def _keep(command: Command) -> None:
    """Runs it again and again, until it is cancelled."""
    while True:
        child = await Child.start(command)
        try:
            code = await child.wait()
        except asyncio.CancelledError:
            await child.stop(timeout_s=5.0)
            raise
        logger.error("%s ended with %s and is started again", command.name, code)
        await asyncio.sleep(_AGAIN_S)


def _log_to_stdout(access_log: Path) -> None:
    """A container's log is what it prints."""
    with suppress(FileExistsError):
        access_log.symlink_to(_STDOUT)
