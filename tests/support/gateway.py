"""A real Envoy with the gateway's files, small upstream replicas behind it, and a load that counts what failed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from atoll.engines import envoy
from atoll.engines.process import Command, Process
from atoll.gateway.admin import Admin
from atoll.gateway.apply import Applier
from atoll.gateway.files import write_initial
from atoll.gateway.ir import Endpoint, Listener
from atoll.gateway.known import Known, ServiceEntry, SystemEntry
from atoll.gateway.translate import translate
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from atoll.registry.replica import Replica
from atoll.system.contract import Contract
from tests.support.ports import free_port
from tests.support.tokens import Mint
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]

Paths = Mapping[str, Mapping[str, Any]]


def contract(service: str, paths: Paths, **openapi: Any) -> Contract:
    """A contract with these OpenAPI paths; operations get ids and responses when they have none."""
    found = {
        path: {
            method: {"operationId": f"{method}_{path}", "responses": {"200": {"description": "ok"}}, **operation}
            for method, operation in item.items()
        }
        for path, item in paths.items()
    }
    document = {"openapi": "3.1.0", "info": {"title": service, "version": "1"}, "paths": found, **openapi}
    return Contract.parse({"format": 1, "service": service, "openapi": document})


def system(*contracts: Contract, **changes: Any) -> SystemEntry:
    """Each service once, with all its contracts; the last given is the newest."""
    services: dict[str, ServiceEntry] = {}
    for one in contracts:
        earlier = services[one.service].digests if one.service in services else ()
        services[one.service] = ServiceEntry(kind="service", prefix=f"/{one.service}", digests=(one.digest, *earlier))
    mint = Mint()
    entry = SystemEntry("shop", "http://localhost:8080", mint.issuer, mint.audience, services)
    return SystemEntry(**{**{name: getattr(entry, name) for name in entry.__struct_fields__}, **changes})


def known(*contracts: Contract, replicas: tuple[Replica, ...] = (), **changes: Any) -> Known:
    return Known(
        system=system(*contracts, **changes),
        contracts={f"{one.service}.{one.digest}": one for one in contracts},
        replicas={f"{one.service}.{one.replica}": one for one in replicas},
    )


def replica(of: Contract, name: str, address: str, beat: float = 0.0, *, tls: bool = False) -> Replica:
    return Replica(of.service, name, address, digest=of.digest, beat=beat, tls=tls)


@dataclass
class Upstream:
    """One replica process."""

    name: str
    port: int
    process: Process

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @classmethod
    def start(cls, name: str, folder: Path, port: int = 0) -> Upstream:
        port = port or free_port()
        arguments = (sys.executable, "-m", "tests.support.upstream", name, str(port))
        return cls(name, port, Process.start(Command(name, arguments, ROOT, folder / f"{name}.log")))

    async def wait_ready(self) -> None:
        async def answers() -> bool:
            async with httpx.AsyncClient() as client:
                try:
                    return (await client.get(f"http://{self.address}/health/ready")).status_code == 200
                except httpx.HTTPError:
                    return False

        await self.process.wait_ready(answers)


@asynccontextmanager
async def upstreams(folder: Path, *names: str) -> AsyncIterator[list[Upstream]]:
    """Replicas that answer."""
    found = [Upstream.start(name, folder) for name in names]
    try:
        await asyncio.gather(*(one.wait_ready() for one in found))
        yield found
    finally:
        for one in found:
            one.process.kill()


@dataclass
class Rig:
    """A running gateway without its controller: `apply` does what the controller does after a change."""

    root: Path
    listener: Listener
    admin: Endpoint
    known: Known
    process: Process = field(init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.port}"

    @property
    def folders(self) -> Folders:
        return Folders(str(self.root))

    def start(self) -> None:
        bootstrap = write_initial(self.root, self.listener, self.admin, self.known)
        self.process = Process.start(envoy.command(envoy.find(), bootstrap, self.root / "envoy.log", workers=2))

    async def wait_ready(self) -> None:
        await self.process.wait_ready(lambda: envoy.ready(self.admin.host, self.admin.port))

    async def apply(self, changed: Known) -> None:
        self.known = changed
        await Applier(self.folders, Admin(self.admin)).apply(render(translate(changed, self.listener), self.folders))

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / "access.log").read_text().splitlines()]

    async def logged(self, request_id: str) -> dict[str, Any]:
        """The access log's line of one request, which comes within a second."""

        def line() -> dict[str, Any]:
            return next((line for line in self.log_lines() if line["request_id"] == request_id), {})

        return await until(line, what="a log line")


@asynccontextmanager
async def gateway(folder: Path, what: Known, mint: Mint | None = None, comparer: Endpoint | None = None) -> AsyncIterator[Rig]:
    """A gateway that is ready. `comparer` is where mirrors' answers are compared."""
    if mint:
        what = replace(what, keys=mint.key_set)
    rig = Rig(folder, Listener("127.0.0.1", free_port(), comparer=comparer), Endpoint("127.0.0.1", free_port()), what)
    rig.start()
    try:
        await rig.wait_ready()
        yield rig
    finally:
        rig.process.stop()


@dataclass
class Load:
    """Requests without end, so many at a time; `failures` holds every answer that was no 2xx, and every exception."""

    done: int = 0
    failures: list[str] = field(default_factory=list)
    running: bool = True

    async def reach(self, more: int, timeout_s: float = 30.0) -> None:
        """Until so many further requests were answered."""
        goal = self.done + more
        await until(lambda: self.done >= goal, timeout_s, f"{more} more requests; failures {self.failures[:3]}")


@asynccontextmanager
async def load(make: Callable[[httpx.AsyncClient], Coroutine[Any, Any, httpx.Response]], width: int = 8) -> AsyncIterator[Load]:
    """`make` sends one request."""
    state = Load()

    async def client() -> None:
        async with httpx.AsyncClient(timeout=20) as http:
            while state.running:
                try:
                    answer = await make(http)
                    if answer.status_code // 100 != 2:
                        state.failures.append(f"{answer.status_code} {answer.text[:200]}")
                except httpx.HTTPError as error:
                    state.failures.append(repr(error))
                state.done += 1

    tasks = [asyncio.create_task(client()) for _ in range(width)]
    try:
        yield state
    finally:
        state.running = False
        await asyncio.gather(*tasks)
