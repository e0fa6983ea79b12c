"""Engines under a container's first process: its output is theirs, its end is theirs, and it tells them when to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from atoll.engines.process import Command
from atoll.errors import EngineOutage

__all__ = ["Child", "stop_signals"]


class Child:
    """One process beside ours, writing where we write."""

    def __init__(self, command: Command, process: asyncio.subprocess.Process) -> None:
        self.name = command.name
        self._process = process

    @classmethod
    async def start(cls, command: Command) -> Child:
        """Raises EngineOutage when it can't be executed."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command.arguments,
                cwd=command.folder,
                env={**os.environ, **command.environment},
                stdin=asyncio.subprocess.DEVNULL,
                user=command.user,
                group=command.user,
            )
        except OSError as error:
            raise EngineOutage(f"{command.name} can't be started: {error}") from error
        return cls(command, process)

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Its exit code, when it has ended."""
        return await self._process.wait()

    async def stop(self, how: signal.Signals = signal.SIGTERM, timeout_s: float = 10.0) -> None:
        """`how`, time to finish, then SIGKILL. Idempotent."""
        if self.running:
            with suppress(ProcessLookupError):
                self._process.send_signal(how)
        try:
            async with asyncio.timeout(timeout_s):
                await self.wait()
        except TimeoutError:
            self._process.kill()
            await self.wait()


@contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """Set by SIGTERM and SIGINT, which end nothing by themselves meanwhile: the kernel gives a first process no defaults."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
