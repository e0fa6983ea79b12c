"""Real engines for tests, everything they write below a folder of the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from atoll.engines import nats
from atoll.engines.process import Process
from tests.support.ports import free_port

_OPEN = """
listen: "127.0.0.1:{port}"
server_name: "test"
jetstream {{ store_dir: "{store}" }}
"""


@dataclass
class NatsServer:
    """A nats-server that can die and come back on the same port with the same data."""

    folder: Path
    port: int
    process: Process

    @property
    def configuration(self) -> Path:
        return self.folder / "nats.conf"

    def url(self, user: str = "", password: str = "") -> str:
        return f"nats://{user}:{password}@127.0.0.1:{self.port}" if user else f"nats://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    async def start(self) -> None:
        self.process = Process.start(nats.command(nats.find(), self.configuration, self.folder / "nats.log"))
        await self.process.wait_ready(lambda: nats.ready("127.0.0.1", self.port))


@asynccontextmanager
async def nats_server(folder: Path, configuration: str = _OPEN, port: int = 0) -> AsyncIterator[NatsServer]:
    """A running server; `configuration` may hold `{port}` and `{store}`. Without one: no accounts, everybody may everything."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    file = folder / "nats.conf"
    if configuration is _OPEN:
        configuration = _OPEN.format(port=port, store=folder / "store")
    file.write_text(configuration)
    process = Process.start(nats.command(nats.find(), file, folder / "nats.log"))
    server = NatsServer(folder, port, process)
    try:
        await process.wait_ready(lambda: nats.ready("127.0.0.1", port))
        yield server
    finally:
        server.process.stop()
