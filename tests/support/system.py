"""A whole system under test: a copy of its folder, run by the real command, gone at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from atoll.host.sessions import members
from tests.support.waiting import until_sync

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = ROOT / "tests" / "systems"
_IGNORED = shutil.ignore_patterns(".atoll", "__pycache__", ".pytest_cache", ".venv")


@dataclass
class RunningSystem:
    """`folder` is the copy. `run` calls a command there; the other methods ask or hurt what runs."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    python: str = sys.executable

    def command(self, *arguments: str) -> list[str]:
        return [*self.prefix, self.python, "-m", "atoll", "-C", str(self.folder), *arguments]

    def run(self, *arguments: str, timeout_s: float = 90.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def must(self, *arguments: str, timeout_s: float = 90.0) -> str:
        """Its output. Fails the test when the command fails."""
        done = self.run(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"atoll {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, *flags: str) -> dict[str, Any]:
        """The summary of `up --detach --isolated`."""
        return dict(json.loads(self.must("up", "--detach", "--isolated", "--json", *flags)))

    def down(self) -> None:
        self.must("down")

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / ".atoll" / "state.json").read_text()))

    @property
    def url(self) -> str:
        return str(self.state["url"])

    def processes(self) -> dict[str, dict[str, Any]]:
        """By name, as the host records them."""
        return {process["name"]: process for process in self.state["processes"]}

    def replicas(self, service: str) -> list[str]:
        return [one["name"] for one in self.state["processes"] if one["service"] == service and one["kind"] != "database"]

    def client(self, user: str = "") -> httpx.Client:
        """An ordinary HTTP client at the gateway, signed in as `user`."""
        headers = {"authorization": f"Bearer {self.must('token', user).strip()}"} if user else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=15)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """One process, by its recorded pid."""
        os.kill(self.processes()[name]["pid"], number)

    def until_ready(self, name: str, not_pid: int = 0, timeout_s: float = 20.0) -> dict[str, Any]:
        """Its record, once it is ready (again, under another pid than `not_pid`)."""

        def ready() -> dict[str, Any] | None:
            process = self.processes().get(name)
            return process if process and process["state"] == "ready" and process["pid"] != not_pid else None

        return until_sync(ready, timeout_s, f"{name} is ready") or {}

    def kill_everything(self) -> dict[str, Any]:
        """kill -9 of the host alone, which must take everything with it. Gives the last record."""
        state = self.state
        os.kill(state["pid"], signal.SIGKILL)
        until_sync(lambda: not self.alive(state), 15, "everything is gone")
        return state

    def alive(self, state: Mapping[str, Any]) -> list[int]:
        """What still runs of a record's sessions."""
        return members([(one["pid"], one["started"]) for one in state["processes"] if one["pid"]])


@contextmanager
def system(source: str | Path, folder: Path, **more: Any) -> Iterator[RunningSystem]:
    """A copy of `tests/systems/<source>` (or of any folder) in `folder`, not started; whatever runs of it ends at the end."""
    shutil.copytree(SYSTEMS / source, folder, ignore=_IGNORED, dirs_exist_ok=True)
    copy = RunningSystem(folder, **more)
    try:
        yield copy
    finally:
        with suppress(subprocess.TimeoutExpired):
            copy.run("down", "--delete-data")
        assert not (folder / ".atoll").exists(), "down --delete-data left something behind"


@contextmanager
def running(source: str | Path, folder: Path, *flags: str, **more: Any) -> Iterator[RunningSystem]:
    """The same, up and settled."""
    with system(source, folder, **more) as copy:
        copy.up(*flags)
        yield copy
