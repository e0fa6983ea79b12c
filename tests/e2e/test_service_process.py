"""One service process, `python -m atoll.service run`, with a real PostgreSQL and a real bus: what it says of itself, how it
starts without them, and how it leaves.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from atoll.bus.jetstream import JetStreamBus
from atoll.provision.nats import PLATFORM_ADMIN
from atoll.registry.replica import removal
from atoll.system.budgets import BUDGETS
from atoll.system.contract import Contract
from tests.support.engines import ProvisionedBus, provisioned_bus
from tests.support.ports import free_port
from tests.support.postgresql import RunningPostgreSQL
from tests.support.system import SYSTEMS
from tests.support.tokens import Mint
from tests.support.waiting import until

FOLDER = SYSTEMS / "clerk"
MINT = Mint()


class Gate:
    """A named pipe at which the service stands still."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._end = -1
        os.mkfifo(path)

    def somebody_waits(self) -> bool:
        try:
            self._end = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True

    def open(self) -> None:
        os.write(self._end, b"passed")
        os.close(self._end)


@dataclass
class Clerk:
    """The service with its database and its bus. `run` starts the process; there may be one after the other."""

    folder: Path
    database_url: str
    bus_url: str
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate = Gate(self.folder / "gate")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.processes[-1]

    def start(self) -> None:
        address = f"127.0.0.1:{self.port}"
        environment = {
            "PATH": os.environ["PATH"],
            "ATOLL_SERVICE": "clerk",
            "ATOLL_FOLDER": str(FOLDER),
            "ATOLL_REPLICA": "clerk-1",
            "ATOLL_LISTEN": address,
            "ATOLL_ADDRESS": address,
            "ATOLL_DATABASE_URL": self.database_url,
            "ATOLL_BUS_URL": self.bus_url,
            "ATOLL_ISSUER": MINT.issuer,
            "ATOLL_AUDIENCE": MINT.audience,
            "ATOLL_STATE_DIR": str(self.state_dir),
            "ATOLL_SETTINGS": json.dumps({"gate": str(self.gate.path)}),
        }
        command = [sys.executable, "-P", "-m", "atoll.service", "run"]
        with (self.folder / "clerk.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(command, cwd=FOLDER, env=environment, stdout=log, stderr=log, start_new_session=True)
            )

    async def answers(self) -> bool:
        """Whether somebody listens."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def refuses(self) -> bool:
        return not await self.answers()

    async def health(self, what: str = "ready") -> dict[str, Any]:
        """What it says of itself, with the `code` it says it with."""
        async with httpx.AsyncClient(base_url=self.url) as http:
            answer = await http.get(f"/health/{what}")
        return {"code": answer.status_code, **answer.json()}

    async def run(self) -> None:
        self.start()
        await until(self.answers, 20)
        await self.until(code=200, bus="up")

    async def until(self, **said: Any) -> dict[str, Any]:
        """Its readiness, once it says that."""

        async def says() -> dict[str, Any] | None:
            health = await self.health()
            return health if said.items() <= health.items() else None

        found = await until(says, 20, f"ready says {said}")
        return found or {}

    async def file(self, *names: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=20) as http:
            return await http.post("/clerk/papers", json=[{"name": name} for name in names])

    async def pass_gate(self) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=20) as http:
            return await http.get("/clerk/gate")

    async def read(self, token: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=20) as http:
            return await http.get("/clerk/papers", headers={"authorization": f"Bearer {token}"})

    async def ended(self, timeout_s: float = 20) -> int:
        """Its exit code, once it is gone."""
        await until(lambda: self.process.poll() is not None, timeout_s, "the process has ended")
        return int(self.process.returncode)

    async def halves(self) -> dict[str, list[str]]:
        """What is committed of the copies, by name, in order."""
        connection = await asyncpg.connect(self.database_url)
        try:
            rows = await connection.fetch("SELECT name, half FROM copy ORDER BY position")
        finally:
            await connection.close()
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row["name"], []).append(row["half"])
        return found

    async def until_copied(self, *names: str) -> dict[str, list[str]]:
        async def copied() -> dict[str, list[str]] | None:
            halves = await self.halves()
            return halves if halves.keys() >= set(names) else None

        return await until(copied, 20, f"{', '.join(names)} are copied") or {}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPostgreSQL]:
    """This file's own, because it is killed."""
    running = RunningPostgreSQL.start(tmp_path_factory.mktemp("clerk-postgresql"))
    yield running
    running.remove()


@pytest.fixture
def database_url(server: RunningPostgreSQL) -> str:
    return server.database()


@pytest.fixture(scope="module")
def contract() -> Contract:
    environment = {"PATH": os.environ["PATH"], "ATOLL_SERVICE": "clerk", "ATOLL_FOLDER": str(FOLDER)}
    command = [sys.executable, "-P", "-m", "atoll.service", "describe"]
    return Contract.parse(json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout))


@pytest.fixture
async def bus(tmp_path: Path, contract: Contract) -> AsyncIterator[ProvisionedBus]:
    async with provisioned_bus(tmp_path / "nats", {"clerk": contract}) as provisioned:
        yield provisioned


@asynccontextmanager
async def employed(clerk: Clerk) -> AsyncIterator[Clerk]:
    """Whatever was started of it is gone at the end."""
    try:
        yield clerk
    finally:
        for process in clerk.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
async def clerk(tmp_path: Path, database_url: str, bus: ProvisionedBus) -> AsyncIterator[Clerk]:
    """Not started."""
    async with employed(Clerk(tmp_path, database_url, bus.url("clerk"))) as clerk:
        yield clerk


async def registered(bus: ProvisionedBus) -> list[str]:
    """Addresses in the registry."""
    connection = JetStreamBus(bus.url(PLATFORM_ADMIN))
    await connection.start()
    try:
        assert await connection.wait_connected(5)
        entries = await connection.latest("KV_registry", "$KV.registry.>")
    finally:
        await connection.close()
    return [json.loads(entry.body)["address"] for entry in entries if not removal(entry)]


async def test_a_dead_bus_is_a_field_of_readiness_and_never_a_reason(clerk: Clerk, bus: ProvisionedBus) -> None:
    await clerk.run()
    bus.server.kill()
    assert await clerk.until(bus="down") == {
        "code": 200,
        "status": "ready",
        "service": "clerk",
        "database": "up",
        "bus": "down",
    }
    assert (await clerk.file("meanwhile")).status_code == 204
    await bus.server.start()
    await clerk.until(code=200, bus="up")
    assert await clerk.until_copied("meanwhile") == {"meanwhile": ["upper", "lower"]}


async def test_a_dead_database_makes_it_unready_until_the_database_is_back(clerk: Clerk, server: RunningPostgreSQL) -> None:
    await clerk.run()
    server.kill()
    try:
        unready = await clerk.until(database="down")
        live = await clerk.health("live")
        refused = await clerk.file("lost")
    finally:
        await server.restart()
    assert (unready["code"], unready["status"], unready["bus"]) == (503, "not ready", "up")
    assert live["code"] == 200
    assert (refused.status_code, refused.json()["code"]) == (503, "database_outage")
    await clerk.until(code=200, database="up")
    assert (await clerk.file("kept")).status_code == 204
    assert await clerk.until_copied("kept") == {"kept": ["upper", "lower"]}


async def test_it_leaves_the_registry_serves_for_the_drain_time_and_finishes_what_it_began(
    clerk: Clerk, bus: ProvisionedBus
) -> None:
    await clerk.run()
    await until(lambda: registered(bus), what="it is registered")
    slow = asyncio.create_task(clerk.pass_gate())
    await until(clerk.gate.somebody_waits)
    clerk.process.send_signal(signal.SIGTERM)
    assert (await clerk.until(status="draining"))["code"] == 503

    async def unregistered() -> bool:
        return await registered(bus) == []

    await until(unregistered)
    assert (await clerk.file("late")).status_code == 204, "a request that is sent in the drain time"
    await until(clerk.refuses, what="the drain time is over")
    assert not slow.done()
    clerk.gate.open()
    answer = await slow
    assert (answer.status_code, answer.json()) == (200, "passed")
    assert await clerk.ended() == 0


async def test_it_leaves_the_registry_before_checks_are_told(clerk: Clerk, bus: ProvisionedBus) -> None:
    """The other way round, a gateway whose only replica it is would refuse requests in between."""
    await clerk.run()
    await until(lambda: registered(bus), what="it is registered")
    told = asyncio.create_task(clerk.until(status="draining"))
    clerk.process.send_signal(signal.SIGTERM)

    async def unregistered() -> bool:
        return await registered(bus) == []

    await until(unregistered)
    assert not told.done()
    assert (await told)["code"] == 503
    assert await clerk.ended() == 0


async def test_the_batch_in_hand_is_committed_before_it_ends_and_nothing_twice(clerk: Clerk, bus: ProvisionedBus) -> None:
    await clerk.run()
    names = ["quick-1", "slow-2", "quick-3"]
    assert (await clerk.file(*names)).status_code == 204
    await until(clerk.gate.somebody_waits)
    assert "slow-2" not in await clerk.halves()
    clerk.process.send_signal(signal.SIGTERM)
    await clerk.until(status="draining")
    clerk.gate.open()
    assert await clerk.ended() == 0
    left = await clerk.halves()
    assert left["slow-2"] == ["upper", "lower"]
    assert set(Counter(map(tuple, left.values()))) == {("upper", "lower")}
    await clerk.run()
    await clerk.file("next")
    assert await clerk.until_copied(*names, "next") == {name: ["upper", "lower"] for name in (*names, "next")}


async def test_a_batch_that_the_drain_time_is_too_short_for_is_rolled_back_and_handled_after_the_restart(clerk: Clerk) -> None:
    await clerk.run()
    assert (await clerk.file("slow")).status_code == 204
    await until(clerk.gate.somebody_waits)
    clerk.process.send_signal(signal.SIGTERM)
    await until(clerk.refuses, what="the drain time is over")
    clerk.gate.open()
    assert await clerk.ended() == 0
    assert await clerk.halves() == {}
    await clerk.run()
    await until(clerk.gate.somebody_waits)
    clerk.gate.open()
    assert await clerk.until_copied("slow") == {"slow": ["upper", "lower"]}


async def test_it_verifies_tokens_with_the_keys_on_disk_when_it_starts_without_a_bus(tmp_path: Path, database_url: str) -> None:
    nobody_there = f"nats://clerk:secret@127.0.0.1:{free_port()}"
    async with employed(Clerk(tmp_path, database_url, nobody_there)) as clerk:
        clerk.state_dir.mkdir()
        MINT.key_set.save(clerk.state_dir / "keys.json")
        clerk.start()
        await until(clerk.answers, 20)
        assert (await clerk.until(code=200))["bus"] == "down"
        assert (await clerk.file("a")).status_code == 204
        answer = await clerk.read(MINT.token(scope="clerk:read"))
        assert (answer.status_code, answer.json()) == (200, [{"name": "a"}])
        assert (await clerk.read(MINT.forged())).status_code == 401
        assert (await clerk.read(MINT.token(scope="clerk:write"))).status_code == 403


async def test_a_request_that_comes_while_it_starts_waits_and_is_answered(clerk: Clerk, server: RunningPostgreSQL) -> None:
    server.kill()
    try:
        clerk.start()
        await until(clerk.answers, 20)
        request = asyncio.create_task(clerk.file("early"))
        ready = await clerk.health()
        assert (ready["code"], ready["status"]) == (503, "starting")
        assert (await clerk.health("live"))["code"] == 200
        assert not request.done()
    finally:
        await server.restart()
    assert (await request).status_code == 204
    assert await clerk.until_copied("early") == {"early": ["upper", "lower"]}


async def test_a_process_that_is_told_to_end_while_it_starts_does_so_at_once_and_answers_who_waits(
    clerk: Clerk, server: RunningPostgreSQL
) -> None:
    server.kill()
    try:
        clerk.start()
        await until(clerk.answers, 20)
        request = asyncio.create_task(clerk.file("early"))
        assert (await clerk.health())["status"] == "starting"
        clerk.process.send_signal(signal.SIGTERM)
        assert await clerk.ended(BUDGETS.handler_s / 2) == 0
    finally:
        await server.restart()
    answer = await request
    assert (answer.status_code, answer.json()["code"]) == (503, "starting")
