"""Keeps processes running: start, wait for health, restart with backoff what dies, say why it died, stop in good order.

Each process leads a session of its own that the reaper knows; when it dies, the rest of its session is killed before it
starts again. Everything here happens on the host's main thread (see `guard`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from atoll.errors import EngineOutage
from atoll.host import logs
from atoll.host.guard import Reaper, wish
from atoll.host.ports import bind
from atoll.host.processes import ProcessSpec
from atoll.host.sessions import Session, kill_sessions, start_time

__all__ = ["Child", "Died", "Probe", "Supervisor"]

Probe = Callable[[ProcessSpec], Awaitable[None]]  # returns when the process is healthy

_BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_CALM_S = 10.0  # a process that ran this long begins with the first backoff again


class Died(EngineOutage):
    """A process ended before it was healthy; `detail` has its exit and the last lines of its log."""


@dataclass(slots=True)
class Child:
    """One supervised slot. `state`: waiting, starting, ready, restarting, failed, stopped."""

    spec: ProcessSpec
    state: str = "waiting"
    pid: int = 0
    started: str = ""
    since: float = 0.0
    restarts: int = 0
    why: str = ""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    popen: subprocess.Popen[bytes] | None = None
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    wanted: bool = True
    log_offset: int = 0

    @property
    def session(self) -> Session:
        return (self.pid, self.started)


class Supervisor:
    """Owns all children. `say` gets one line per noteworthy event, `changed` is called after every change of state."""

    def __init__(self, reaper: Reaper, say: Callable[[str], None], changed: Callable[[], None]) -> None:
        self.children: dict[str, Child] = {}
        self._reaper = reaper
        self._say = say
        self._changed = changed
        self._wish = wish()

    def watch(self) -> None:
        """Learn of ended processes by signal. Call once, with the loop running on the main thread."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._collect)

    async def start(self, spec: ProcessSpec, probe: Probe, *, patient: bool = False) -> Child:
        """Starts it and returns when it is healthy; from then on it is kept running.

        Raises Died when it ends first, unless `patient`: then it is tried again until it is healthy.
        """
        child = Child(spec)
        self.children[spec.name] = child
        child.task = asyncio.create_task(self._keep(child, probe, patient), name=spec.name)
        waiting = asyncio.create_task(child.ready.wait())
        try:
            await asyncio.wait({waiting, child.task}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop(spec.name, hurry=True)
            raise
        finally:
            waiting.cancel()
        if child.task.done() and not child.ready.is_set():
            del self.children[spec.name]
            child.task.result()
            raise Died(f"{spec.name} was stopped before it was ready")
        return child

    async def stop(self, name: str, *, hurry: bool = False) -> None:
        """Its own stop signal, time to finish, then SIGKILL for whatever of its session is left.

        `hurry`: a second signal tells a service that nobody sends it requests any more, so that it need not wait for them.
        """
        child = self.children.get(name)
        if child is None:
            return
        child.wanted = False
        if child.popen is not None and not child.exited.is_set():
            await self._end(child, hurry)
        if child.task is not None:
            child.task.cancel()
            await asyncio.wait({child.task})
        self.children.pop(name, None)
        self._changed()

    async def stop_all(self, names: list[str], *, hurry: bool = False) -> None:
        await asyncio.gather(*(self.stop(name, hurry=hurry) for name in names))

    async def _end(self, child: Child, hurry: bool) -> None:
        timeout_s = child.spec.stop_timeout_s
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, child.spec.stop_signal)
            if hurry:  # another number, because two of one kind may arrive as one
                os.kill(child.pid, signal.SIGINT)
            os.kill(child.pid, signal.SIGCONT)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await child.exited.wait()
        if not child.exited.is_set():
            self._say(f"{child.spec.name} did not stop within {timeout_s:g} s and is killed")
        self._bury(child)

    def _bury(self, child: Child) -> None:
        """The leader and whatever it left running in its session."""
        kill_sessions([child.session])
        if child.popen is not None:
            child.popen.wait()
        child.exited.set()
        self._reaper.forget(child.session)

    async def _keep(self, child: Child, probe: Probe, patient: bool) -> None:
        attempt = 0
        while child.wanted:
            self._spawn(child)
            healthy = await self._until_healthy(child, probe)
            if not healthy and child.wanted:
                death = self._death(child)
                self._bury(child)
                if not child.ready.is_set() and not patient:
                    self._mark(child, "failed", death)
                    raise Died(death)
            elif healthy:
                await child.exited.wait()
                death = self._death(child)
                if child.wanted:
                    self._bury(child)
            if self._is_over(child):
                return
            attempt = 0 if time.monotonic() - child.since > _CALM_S else attempt
            pause_s = _BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)]
            attempt += 1
            child.restarts += 1
            self._say(f"{death}\n  it starts again{f' in {pause_s:g} s' if pause_s else ' at once'}")
            self._mark(child, "restarting", death)
            await asyncio.sleep(pause_s)

    def _is_over(self, child: Child) -> bool:
        """`stop` came while something was awaited."""
        return not child.wanted

    def _spawn(self, child: Child) -> None:
        spec = child.spec
        listener = self._listener(spec)
        child.exited = asyncio.Event()
        try:
            with logs.open_log(spec.log) as log:
                child.log_offset = log.tell()
                child.popen = self._popen(spec, listener, log)
        finally:
            if listener is not None:
                listener.close()  # so that a dead process refuses connections at once
        child.pid, child.since = child.popen.pid, time.monotonic()
        child.started = start_time(child.pid)
        self._reaper.record(child.session)
        self._mark(child, "starting", "")

    def _popen(self, spec: ProcessSpec, listener: socket.socket | None, log: Any) -> subprocess.Popen[bytes]:
        environment = dict(spec.environment)
        if listener is not None:
            environment["ATOLL_LISTEN"] = f"fd:{listener.fileno()}"
        user: dict[str, Any] = {} if spec.user is None else {"user": spec.user, "group": spec.group, "extra_groups": []}
        try:
            return subprocess.Popen(
                [*self._wish.prefix, *spec.argv],
                cwd=spec.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(listener.fileno(),) if listener else (),
                start_new_session=True,
                umask=0o077 if spec.user is None else -1,  # databases and logs are nobody else's to read
                preexec_fn=self._wish.between,  # one thread, and nothing but two system calls
                **user,
            )
        except OSError as error:
            raise Died(f"{spec.name} can't be started: {error.strerror}: {error.filename or spec.argv[0]}") from error

    def _listener(self, spec: ProcessSpec) -> socket.socket | None:
        if not spec.inherits or spec.port is None:
            return None
        try:
            return bind(spec.port)
        except OSError as error:
            raise Died(f"{spec.name} can't listen on port {spec.port}: {error.strerror}") from error

    async def _until_healthy(self, child: Child, probe: Probe) -> bool:
        probing = asyncio.ensure_future(_bounded(probe, child.spec))
        dying = asyncio.create_task(child.exited.wait())
        try:
            await asyncio.wait({probing, dying}, return_when=asyncio.FIRST_COMPLETED)
            if not child.exited.is_set() and probing.done() and probing.exception() is None:
                self._mark(child, "ready", "")
                child.ready.set()
                return True
            return False
        finally:
            for task in (probing, dying):
                task.cancel()
            await asyncio.wait({probing, dying})
            if not probing.cancelled():
                probing.exception()  # it has been looked at

    def _death(self, child: Child) -> str:
        code = child.popen.poll() if child.popen else None
        how = (
            "did not become healthy in time"
            if code is None
            else f"was killed by {_signal(code)}"
            if code < 0
            else f"exited ({code})"
        )
        tail = logs.tail(child.spec.log, child.log_offset)
        text = "\n".join(f"    {line}" for line in tail)
        return f"{child.spec.name} {how}" + (f"; the end of {child.spec.log}:\n{text}" if tail else "; it wrote no log")

    def _mark(self, child: Child, state: str, why: str) -> None:
        child.state, child.why = state, why
        self._changed()

    def _collect(self) -> None:
        for child in self.children.values():
            if child.popen is not None and child.popen.poll() is not None:
                child.exited.set()
        if self._reaper.revived():
            what = "the reaper, which ends all processes when the host is killed"
            self._say(f"{what}, was killed itself; another one has taken its place (pid {self._reaper.pid})")
            self._changed()


async def _bounded(probe: Probe, spec: ProcessSpec) -> None:
    async with asyncio.timeout(spec.start_timeout_s):
        await probe(spec)


def _signal(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
