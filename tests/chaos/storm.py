"""The storm: routes, keys, certificates, replicas and the controller change while requests pass; what fails is counted.

    python -m tests.chaos.storm --seconds 60 --routes 50 --keys 10 --certificates 10 --seed 1

A whole system behind TLS. Two `wrk` ask without a pause, one of them with a token; further clients write. No request may
fail but a write that was on its way to the one replica that is killed: nobody can know whether it was done.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from atoll.host.control import ask
from atoll.host.layout import Layout
from tests.support.load import Answer, Answers, Ask, load
from tests.support.system import RunningSystem, system
from tests.support.tls import Files
from tests.support.waiting import until_sync

__all__ = ["Findings", "Plan", "storm"]

SERVICES = ("left", "middle", "shifting", "auth")
_WAIT_S = 60.0
_SHIFTING = '''"""Has another path after each edit."""

from atoll import Service

service = Service("shifting", database=None)


@service.get("/shifting/n{0}", public=True)
async def here() -> dict[str, int]:
    return {{"n": {0}}}
'''
# Counts what failed and keeps the first few answers that say how.
_SCRIPT = """
local headers = %(headers)s
local path, failed = "%(path)s", ""
request = function() return wrk.format("GET", path, headers) end
response = function(status, headers, body)
  if status ~= 200 and #failed < 1500 then failed = failed .. status .. " " .. body .. "; " end
  told = failed
end
local thread
setup = function(one) thread = one end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("\\nRESULT %%d %%d %%d %%d %%d\\n%%s\\n", summary.requests, summary.duration, e.status,
    e.connect + e.read + e.write + e.timeout, latency:percentile(99), thread:get("told") or ""))
end
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much changes, in an order that `seed` chooses; it lasts `seconds` at least."""

    seconds: float
    routes: int
    keys: int
    certificates: int
    seed: int

    def changes(self) -> list[str]:
        found = ["route"] * self.routes + ["key"] * self.keys + ["certificate"] * self.certificates
        found += ["replicas", "controller", *(f"restart {name}" for name in SERVICES)]
        random.Random(self.seed).shuffle(found)
        return found


@dataclass(slots=True)
class Findings:
    """`failed` must be empty. `reads` and `writes` were answered; `cut` are writes on their way to the killed replica."""

    failed: list[str] = field(default_factory=list)
    reads: int = 0
    reads_per_s: float = 0.0
    writes: int = 0
    cut: int = 0
    changes: dict[str, int] = field(default_factory=dict)

    def table(self) -> str:
        lines = [
            "| change | times |",
            "| --- | --- |",
            *(f"| {what} | {times} |" for what, times in sorted(self.changes.items())),
        ]
        told = f"{self.reads} reads ({self.reads_per_s:.0f}/s), {self.writes} writes, {self.cut} of them cut by the kill"
        return "\n".join([*lines, "", f"{told}; {len(self.failed)} failed"])


@dataclass(frozen=True, slots=True)
class Kill:
    """Of the replica at `address`. Before `replaced_s` another one listened there."""

    address: str
    killed_s: float
    replaced_s: float

    def cut(self, answer: Answer, line: Mapping[str, Any]) -> bool:
        """Whether the gateway's log says of a request that the killed replica had it and its connection ended with it."""
        during = answer.began_s <= self.replaced_s and answer.ended_s >= self.killed_s
        return during and line.get("replica") == self.address and line.get("flags") == "UC"


class _Weather:
    """One running system and what is done to it."""

    def __init__(self, running: RunningSystem, files: Files) -> None:
        self.running = running
        self.files = files
        self.kill: Kill | None = None
        self._path = itertools.count(1)
        self._layout = Layout(running.folder)
        self._http = httpx.Client(base_url=running.url, timeout=20, verify=files.trusting())

    def make(self, change: str) -> None:
        match change.split():
            case ["route"]:
                self._route(next(self._path))
            case ["key"]:
                self._key()
            case ["certificate"]:
                self._certificate()
            case ["replicas"]:
                self._replicas()
            case ["controller"]:
                self._kill("gateway")
            case ["restart", name]:
                ask(self._layout, {"do": "restart", "name": name})

    def close(self) -> None:
        self._http.close()

    def logged(self, request_id: str) -> dict[str, Any]:
        """The gateway's line of a request; empty for one that it has never seen."""
        if not request_id:
            return {}
        folder = self.running.folder / ".atoll" / "gateway"

        def line() -> dict[str, Any]:
            logs = (log for log in (folder / "access.log", folder / "access.log.1") if log.exists())
            texts = (text for log in logs for text in log.read_text().splitlines() if request_id in text)
            return next((dict(json.loads(text)) for text in texts), {})

        return until_sync(line, _WAIT_S, f"the log's line of {request_id}")

    def _route(self, number: int) -> None:
        """The service is edited: one path comes, one goes."""
        code = self.running.folder / "services" / "shifting" / "shifting" / "service.py"
        code.write_text(_SHIFTING.format(number))
        until_sync(lambda: self._status(f"/shifting/n{number}") == 200, _WAIT_S, f"path {number} is there")
        until_sync(lambda: self._status(f"/shifting/n{number - 1}") == 404, _WAIT_S, f"path {number - 1} is gone")

    def _key(self) -> None:
        secret = str(ask(self._layout, {"do": "operator"})["secret"])
        form = {"grant_type": "client_credentials", "client_id": "operator", "client_secret": secret}
        token = self._http.post("/auth/token", data=form).raise_for_status().json()["access_token"]
        headers = {"authorization": f"Bearer {token}"}
        until_sync(lambda: self._http.post("/auth/keys/rotation", headers=headers).status_code == 200, _WAIT_S, "a next key")

    def _certificate(self) -> None:
        wanted = self.files.fill().digest
        until_sync(lambda: self._shown() == wanted, _WAIT_S, "the new certificate is shown")

    def _replicas(self) -> None:
        """1 → 3, one of them killed and replaced, → 1."""
        ask(self._layout, {"do": "scale", "name": "middle", "count": 3})
        victim = self.running.replicas("middle")[1]
        address = f"127.0.0.1:{self.running.processes()[victim]['port']}"
        killed_s = time.monotonic()
        self._kill(victim)
        self.kill = Kill(address, killed_s, time.monotonic())
        ask(self._layout, {"do": "scale", "name": "middle", "count": 1})

    def _kill(self, name: str) -> None:
        pid = self.running.processes()[name]["pid"]
        os.kill(pid, signal.SIGKILL)
        self.running.until_ready(name, not_pid=pid, timeout_s=_WAIT_S)

    def _status(self, path: str) -> int:
        return self._http.get(path).status_code

    def _shown(self) -> str:
        with (
            socket.create_connection(("127.0.0.1", httpx.URL(self.running.url).port or 0), timeout=10) as plain,
            self.files.trusting().wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            return hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()


def storm(folder: Path, plan: Plan) -> Findings:
    """In a new copy of the system `storm`, which is gone afterwards."""
    trusted = {"SSL_CERT_FILE": str(folder / "certificates" / "ca.pem")}
    with system("storm", folder, environment=trusted) as running:
        files = Files(folder / "certificates")
        files.fill()
        running.up("--reload")
        weather, findings = _Weather(running, files), Findings()
        signed = {"authorization": f"Bearer {running.must('token', 'ann').strip()}"}
        with (
            _reading(running, "/middle/open", {}, findings),
            _reading(running, "/middle/closed", signed, findings),
            load(running.url, _writes(), signed, trusting=files.trusting()) as answers,
        ):
            _blow(weather, plan, findings)
        _count(answers, weather, findings)
        weather.close()
    return findings


def _blow(weather: _Weather, plan: Plan, findings: Findings) -> None:
    end = time.monotonic() + plan.seconds
    for change in plan.changes():
        weather.make(change)
        findings.changes[change] = findings.changes.get(change, 0) + 1
    until_sync(lambda: time.monotonic() > end, plan.seconds + 1, "the time is over")


def _writes() -> Callable[[], Ask]:
    """To the service whose replica is killed, and to one whose database is written, in turns."""
    asks = itertools.cycle((Ask("POST", "/middle/closed", 200), Ask("POST", "/left/notes", 201, {"text": "of the storm"})))
    return lambda: next(asks)


def _count(answers: Answers, weather: _Weather, findings: Findings) -> None:
    failed = [one for one in answers.all if one.status != one.ask.expected]
    findings.writes += len(answers.all) - len(failed)
    for one in failed:
        line = weather.logged(one.request_id)
        if weather.kill and weather.kill.cut(one, line):
            findings.cut += 1
        else:
            findings.failed.append(f"{one}; the log: {line}")


@contextmanager
def _reading(running: RunningSystem, path: str, headers: Mapping[str, str], findings: Findings) -> Iterator[None]:
    """Four connections that ask without a pause throughout the block."""
    script = running.folder / f"read{path.replace('/', '-')}.lua"
    table = ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
    script.write_text(_SCRIPT % {"headers": "{" + table + "}", "path": path})
    command = ["wrk", "-t1", "-c4", "-d3600s", "--timeout", "20s", "-s", str(script), running.url]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield
        child.send_signal(signal.SIGINT)  # it finishes what it has begun, and says what it has seen
        said, _ = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    _, _, result = said.partition("RESULT ")
    numbers, _, words = result.partition("\n")
    requests, duration_us, refused, broken, _ = map(int, numbers.split())
    findings.reads += requests
    findings.reads_per_s += requests / (duration_us / 1e6)
    if refused or broken:
        findings.failed.append(f"GET {path}: {refused} answers of another status, {broken} connections: {words.strip()}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Change everything about the gateway under load.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--routes", type=int, default=50)
    parser.add_argument("--keys", type=int, default=10)
    parser.add_argument("--certificates", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    given = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as folder:
        found = storm(Path(folder) / "storm", Plan(**given))
    sys.stdout.write(found.table() + "\n")
    for wrong in found.failed:
        sys.stdout.write(f"FAILED {wrong}\n")
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
