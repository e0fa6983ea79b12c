"""No orphans, whatever is killed: two nets, because each has a hole.

`wish` asks Linux to kill a direct child when the host dies; a grandchild would survive that. The `Reaper` is a
process of its own that holds a pipe from the host and kills every recorded session when the pipe closes; it could be
killed along with the host. What survives both is found by pid and start time at the next `up`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from atoll.host.sessions import Session, kill_sessions, members, start_time

__all__ = ["Reaper", "Wish", "wish"]

_PR_SET_PDEATHSIG = 1
_SETTLE_S = 0.002


@dataclass(frozen=True, slots=True)
class Wish:
    """How a child is made to die with the host: words before its command line, or a function between fork and exec."""

    prefix: tuple[str, ...] = ()
    between: Callable[[], None] | None = None


@functools.cache
def wish() -> Wish:
    """`setpriv` where there is one: it costs a millisecond, where a function in the copied host costs ten.

    Either way it comes after a change of user (which would clear it), and is bound to the spawning *thread*: call Popen
    from the host's main thread only.
    """
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    if setpriv is not None:
        said = subprocess.run([setpriv, "--help"], capture_output=True, text=True, check=False).stdout
        if "--pdeathsig" in said:
            return Wish(prefix=(setpriv, "--pdeathsig", "KILL", "--"))
    return Wish(between=_ask_linux())


def _ask_linux() -> Callable[[], None] | None:
    """What a child may run between fork and exec."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    host = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != host:  # the host died between fork and here
            os._exit(1)

    return ask


class Reaper:
    """The small process that outlives the host by a moment. Start it before there are threads or an event loop."""

    def __init__(self) -> None:
        self._recorded: set[Session] = set()
        self._start()

    def _start(self) -> None:
        """A fork that never comes back here: it lets go of all files and does nothing but system calls."""
        read, self._write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _watch(read, self._write)
        os.close(read)
        self.started = start_time(self.pid)

    def record(self, session: Session) -> None:
        """From now on this session dies with the host."""
        self._recorded.add(session)
        self._tell(f"+{session[0]} {session[1]}\n")

    def forget(self, session: Session) -> None:
        self._recorded.discard(session)
        self._tell(f"-{session[0]} {session[1]}\n")

    def revived(self) -> bool:
        """Whether it had died. Then another one has its place, and knows what it knew."""
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                return False
        os.close(self._write)
        self._start()
        for session in set(self._recorded):
            self.record(session)
        return True

    def close(self) -> None:
        """The host ends in good order: whatever is still recorded is killed, then the reaper is gone."""
        os.close(self._write)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._write, line.encode())


def _watch(read: int, write: int) -> None:
    """The reaper's whole life; never returns."""
    try:
        os.setsid()
        os.close(write)
        _let_go_of_files(keep=read)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        recorded = _read_until_host_is_gone(read)
        kill_sessions(recorded)
        while members(recorded):  # killed, and not yet collected by whoever adopted them
            time.sleep(_SETTLE_S)
    finally:
        os._exit(0)


def _let_go_of_files(keep: int) -> None:
    """A terminal or a test's pipe must not stay open because of us."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, keep)
    os.closerange(keep + 1, 4096)


def _read_until_host_is_gone(read: int) -> set[Session]:
    recorded: set[Session] = set()
    pending = b""
    while chunk := os.read(read, 65_536):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            pid, started = line[1:].decode().split(" ", 1)
            (recorded.add if line[:1] == b"+" else recorded.discard)((int(pid), started))
    return recorded
