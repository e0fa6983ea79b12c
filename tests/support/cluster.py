"""A real bus of three servers on loopback, which can die, stand still, or be cut off from each other one by one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from atoll.certificates.authority import Authority
from atoll.engines import nats
from atoll.engines.process import Process
from atoll.provision.bus import Administrator
from atoll.provision.nats import BusServer, Cluster, Entrance, users
from atoll.system.contract import Contract
from atoll.system.plan import BusPlan
from tests.support.engines import backwards
from tests.support.ports import free_port
from tests.support.waiting import until

COUNT = 3
LOOPBACK = "127.0.0.1"


@dataclass
class Way:
    """From one server to the port where another takes routes. Cut, it lets nothing through, and nothing new begins."""

    port: int
    cut: bool = False
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if not self.cut:
                further, back = await asyncio.open_connection(LOOPBACK, self.port)
                self.open |= {writer, back}
                await asyncio.gather(self._pump(reader, back), self._pump(further, writer))
        writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        finally:
            self.open.discard(writer)
            writer.transport.abort()

    def shut(self) -> None:
        self.cut = True
        for writer in list(self.open):
            writer.transport.abort()


@dataclass
class Member:
    """One server: `administrator` writes its configuration, `ways` lead to the others."""

    administrator: Administrator
    folder: Path
    ways: dict[int, Way] = field(default_factory=dict)
    process: Process | None = None

    @property
    def port(self) -> int:
        return self.administrator.server.port

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        configuration = self.folder / "nats.conf"
        self.administrator.write(configuration)
        self.process = Process.start(nats.command(nats.find(), configuration, self.folder / "nats.log"))
        await self.process.wait_ready(lambda: nats.ready(LOOPBACK, self.port))

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()

    async def stand_still(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        await until(lambda: "State:\tT" in Path(f"/proc/{self.pid}/status").read_text())

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@dataclass
class Bus:
    """Provisioned for a set of contracts; every user's password is its name, backwards."""

    members: list[Member]
    entrance: Entrance

    @property
    def administrator(self) -> Administrator:
        return self.members[0].administrator

    def url(self, user: str, *numbers: int) -> str:
        """Of all servers, or of these."""
        servers = tuple(self.entrance.servers[number] for number in numbers) or self.entrance.servers
        return Entrance(servers, self.entrance.tls).url(user, backwards(user))

    def cut_off(self, number: int) -> None:
        """From the other servers; its clients go on being connected with it."""
        for way in self._ways(number):
            way.shut()

    def part(self, one: int, other: int) -> None:
        """Two servers do not reach each other any more; both reach the third."""
        for way in (self.members[one].ways[other], self.members[other].ways[one]):
            way.shut()

    def join(self, number: int) -> None:
        for way in self._ways(number):
            way.cut = False

    def _ways(self, number: int) -> list[Way]:
        own = list(self.members[number].ways.values())
        return own + [member.ways[number] for member in self.members if number in member.ways]

    def change(self, contracts: Mapping[str, Contract]) -> None:
        """What each server's configuration says from now on; nobody has read it yet."""
        for member in self.members:
            before = member.administrator
            member.administrator = _administrator(contracts, before.server, self.entrance)
            member.administrator.write(member.folder / "nats.conf")


def up_to_date(replica: Mapping[str, Any]) -> bool:
    """As a stream's leader tells of it, which under load calls none current that is an event behind."""
    heard = 0 < replica["active"] < 10**9 and replica.get("lag", 0) < 100
    return not replica.get("offline") and (replica["current"] or heard)


def certificates(folder: Path, *names: str, authority: Authority | None = None) -> Path:
    """A folder with what a server of the bus needs to speak TLS as those names."""
    now, lifetime = datetime.now(UTC), timedelta(days=1)
    authority = authority or Authority.make("the bus of a test", now, lifetime)
    folder.mkdir(parents=True, exist_ok=True)
    authority.issue(names, "peer", now, lifetime).save(folder / "tls.crt", folder / "tls.key")
    (folder / "ca.crt").write_bytes(authority.pair.chain)
    return folder


def _administrator(contracts: Mapping[str, Contract], server: BusServer, entrance: Entrance) -> Administrator:
    plan = BusPlan.of(contracts)
    return Administrator(plan, server, {user: backwards(user) for user in users(plan)}, entrance)


@asynccontextmanager
async def three_servers(folder: Path, contracts: Mapping[str, Contract], tls: Path | None = None) -> AsyncIterator[Bus]:
    """They run, are one bus and are provisioned. `tls` is a folder with certificates."""
    ports, routes = [free_port() for _ in range(COUNT)], [free_port() for _ in range(COUNT)]
    authorities = str(tls / "ca.crt") if tls else ""
    entrance = Entrance(tuple(f"{LOOPBACK}:{port}" for port in ports), bool(tls), authorities)
    async with AsyncExitStack() as stack:
        bus = Bus([], entrance)
        for number in range(COUNT):
            member = Member(_administrator(contracts, BusServer("", 0, folder), entrance), folder / f"nats-{number}")
            member.folder.mkdir(parents=True)
            bus.members.append(member)
            listening = []
            for other in (one for one in range(COUNT) if one != number):
                way = member.ways[other] = Way(routes[other])
                server = await asyncio.start_server(way.forward, LOOPBACK, 0)
                stack.callback(server.close)
                stack.callback(way.shut)
                listening.append(f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}")
            # Where others are told to find it, nobody is: they come by the ways that can be cut.
            cluster = Cluster(f"{LOOPBACK}:{routes[number]}", tuple(listening), f"{LOOPBACK}:{ports[number]}", f"{LOOPBACK}:1")
            store = member.folder / "store"
            server_ = BusServer(f"nats-{number}", ports[number], store, LOOPBACK, cluster=cluster, tls=tls)
            member.administrator = _administrator(contracts, server_, entrance)
        for member in bus.members:
            stack.callback(_stop, member)
        await asyncio.gather(*(member.start() for member in bus.members))
        await bus.administrator.make()
        yield bus


def _stop(member: Member) -> None:
    if member.process is not None:
        member.process.kill()
