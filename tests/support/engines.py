"""Real engines for tests, everything they write below a folder of the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from atoll.engines import nats
from atoll.engines.process import Process
from atoll.provision.bus import Administrator, Made
from atoll.provision.nats import BusServer, configuration, users
from atoll.system.contract import Contract
from atoll.system.plan import BusPlan
from tests.support.ports import free_port

_OPEN = """
listen: "127.0.0.1:{port}"
server_name: "test"
jetstream {{ store_dir: "{store}" }}
mappings {{ "information.*": "$JS.API.STREAM.INFO.$1" }}
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
async def nats_server(
    folder: Path, text: str = _OPEN, port: int = 0, environment: Mapping[str, str] | None = None
) -> AsyncIterator[NatsServer]:
    """A running server with that configuration, which must name `port`; without one everybody may everything."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    file = folder / "nats.conf"
    file.write_text(_OPEN.format(port=port, store=folder / "store") if text is _OPEN else text)
    command = nats.command(nats.find(), file, folder / "nats.log")
    process = Process.start(replace(command, environment=environment or {}))
    server = NatsServer(folder, port, process)
    try:
        await process.wait_ready(lambda: nats.ready("127.0.0.1", port))
        yield server
    finally:
        server.process.stop()


def backwards(user: str) -> str:
    return user[::-1]


@dataclass
class ProvisionedBus:
    """A server provisioned for a set of contracts; every user's password is its name, backwards, or what `password` says."""

    server: NatsServer
    administrator: Administrator
    password: Callable[[str], str] = backwards

    def url(self, user: str) -> str:
        return self.server.url(user, self.password(user))

    def changed(self, contracts: Mapping[str, Contract]) -> Administrator:
        """The administrator for another set of contracts."""
        plan = BusPlan.of(contracts)
        passwords = {user: self.password(user) for user in users(plan)}
        self.administrator = Administrator(plan, self.administrator.server, passwords)
        return self.administrator

    async def apply(self) -> Made:
        return await self.administrator.apply(self.server.configuration)


@asynccontextmanager
async def provisioned_bus(
    folder: Path, contracts: Mapping[str, Contract], password: Callable[[str], str] = backwards
) -> AsyncIterator[ProvisionedBus]:
    """A real server as provision makes it."""
    plan, port = BusPlan.of(contracts), free_port()
    passwords = {user: password(user) for user in users(plan)}
    administrator = Administrator(plan, BusServer("test", port, folder / "store"), passwords)
    async with nats_server(folder, configuration(plan, administrator.server, administrator.passwords), port) as server:
        await administrator.make()
        yield ProvisionedBus(server, administrator, password)
