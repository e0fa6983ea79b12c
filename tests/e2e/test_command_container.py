"""`atoll run NAME` of a `command`, as its container starts it: on a real bus, with a program that knows nothing of atoll."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from atoll.bus.jetstream import JetStreamBus
from atoll.provision.nats import GATEWAY
from atoll.registry.replica import STREAM, Replica, parse, removal
from tests.support.engines import ProvisionedBus, provisioned_bus
from tests.support.gateway import contract
from tests.support.ports import free_port
from tests.support.waiting import until, until_sync

WALL = contract("wall", {})
PROGRAM = """
import http.server, json, os, signal, sys, time

told = {name: os.environ.get(name) for name in ("ATOLL_BUS_URL", "MOTTO", "PYTHONPATH", "PATH")}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

def end(*_):
    print("the program was told to end", flush=True)
    os._exit(7)

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGHUP, lambda *_: os._exit(3))
print("pid", os.getpid(), flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def started(folder: Path, bus: ProvisionedBus, port: int, *words: str) -> subprocess.Popen[str]:
    (folder / "program.py").write_text(PROGRAM)
    (folder / "bus_url").write_text(bus.url("wall"))
    told = {
        "ATOLL_SERVICE": "wall",
        "ATOLL_COMMAND": json.dumps(words or (sys.executable, "program.py", str(port))),
        "ATOLL_COMMAND_PACKAGES": "/opt/program",
        "ATOLL_LISTEN": f"127.0.0.1:{port}",
        "ATOLL_BUS_URL_FILE": str(folder / "bus_url"),
        "ATOLL_CONTRACT_DIGEST": WALL.digest,
        "ATOLL_REPLICA": "wall-1",
    }
    command = [sys.executable, "-m", "atoll", "run", "wall"]
    return subprocess.Popen(
        command, cwd=folder, env={**os.environ, **told}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@asynccontextmanager
async def registry(bus: ProvisionedBus) -> AsyncIterator[Callable[[], Awaitable[Replica | None]]]:
    """A question: the wall's entry, None while there is none."""
    reading = JetStreamBus(bus.url(GATEWAY), name="a test")
    await reading.start()
    assert await reading.wait_connected(10)

    async def entry() -> Replica | None:
        found = await reading.latest(STREAM, "$KV.registry.wall.>")
        return parse(found[0]) if found and not removal(found[0]) else None

    try:
        yield entry
    finally:
        await reading.close()


async def test_it_is_announced_when_it_answers_and_withdrawn_before_it_is_told_to_end(tmp_path: Path) -> None:
    port = free_port()
    async with provisioned_bus(tmp_path / "bus", {"wall": WALL}) as bus, registry(bus) as entry:
        process = started(tmp_path, bus, port)
        try:
            found = await until(entry, 30, "it is announced")
            assert isinstance(found, Replica)
            assert (found.replica, found.address, found.digest) == ("wall-1", f"127.0.0.1:{port}", WALL.digest)
            async with httpx.AsyncClient() as http:
                said = (await http.get(f"http://127.0.0.1:{port}")).json()
                assert said["ATOLL_BUS_URL"] == bus.url("wall")
                assert said["PYTHONPATH"] == f"/opt/program:{tmp_path}"
                assert said["PATH"].startswith("/opt/program/bin:")
                process.send_signal(signal.SIGTERM)
                await until(lambda: _gone(entry), 10, "it is withdrawn")
                assert (await http.get(f"http://127.0.0.1:{port}")).status_code == 200, "it still answers who has not heard"
            out, _ = await asyncio.to_thread(process.communicate, timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "the program was told to end" in out


async def _gone(entry: Callable[[], Awaitable[Replica | None]]) -> bool:
    return await entry() is None


async def test_its_end_is_the_container_s(tmp_path: Path) -> None:
    port = free_port()
    async with provisioned_bus(tmp_path / "bus", {"wall": WALL}) as bus, registry(bus) as entry:
        process = started(tmp_path, bus, port)
        try:
            await until(entry, 30, "it is announced")
            assert process.stdout is not None
            pid = int(process.stdout.readline().split()[1])
            os.kill(pid, signal.SIGHUP)
            await asyncio.to_thread(process.communicate, timeout=30)
            assert process.returncode == 3
            assert await entry() is None
        finally:
            process.kill()


async def test_while_the_bus_is_away_it_serves_and_is_announced_afterwards(tmp_path: Path) -> None:
    port = free_port()
    async with provisioned_bus(tmp_path / "bus", {"wall": WALL}) as bus:
        bus.server.kill()
        process = started(tmp_path, bus, port)
        try:
            await asyncio.to_thread(until_sync, lambda: _answers(port), 30, "it answers")
            await bus.server.start()
            async with registry(bus) as entry:
                assert await until(entry, 30, "it is announced")
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.communicate, timeout=30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("said", ["node server.js", "[]", '["node", 1]'])
def test_words_that_are_no_list_are_refused(tmp_path: Path, said: str) -> None:
    told = {"ATOLL_SERVICE": "wall", "ATOLL_LISTEN": "127.0.0.1:1", "ATOLL_BUS_URL": "nats://x", "ATOLL_COMMAND": said}
    command = [sys.executable, "-m", "atoll", "run", "wall"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **told}, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "ATOLL_COMMAND is" in done.stderr


async def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    async with provisioned_bus(tmp_path / "bus", {"wall": WALL}) as bus:
        process = started(tmp_path, bus, free_port(), "no-such-program")
        said, _ = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 1
    assert "wall can't be started" in said
