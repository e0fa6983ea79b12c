"""What commands ask of the running host: one method for each, and the places lent to foreground processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from atoll.errors import AtollError, EngineOutage, SystemMistake
from atoll.host import canaries, state
from atoll.host.probes import healthy
from atoll.host.processes import Slot
from atoll.system.manifest import MOST_REPLICAS

if TYPE_CHECKING:
    from atoll.host.host import Host

__all__ = ["Commands", "Lent"]


@dataclass
class Lent:
    """A service whose place a foreground process (`atoll run`) has; `count` replicas come back after it."""

    slot: Slot
    pid: int
    count: int


@dataclass
class Commands:
    """`obey` is what the control socket calls."""

    host: Host
    lent: dict[str, Lent] = field(default_factory=dict)

    async def obey(self, request: dict[str, Any], say: Callable[[str], None]) -> Any:
        """One request of a command; what it changed is recorded when this returns. Raises AtollError."""
        try:
            return await self._obey(request, say)
        finally:
            if not self.host.stopping.is_set():
                self.host.record()

    async def _obey(self, request: dict[str, Any], say: Callable[[str], None]) -> Any:
        match request.get("do"):
            case "ps":
                return state.shown(self.host.snapshot())
            case "down":
                self.host.stopping.set()
            case "env":
                return self._described(self._replaceable(request["name"]))
            case "operator":
                ca = str(self.host.gateway.ca or "")
                return {"url": self.host.system.gateway.url, "ca": ca, "secret": self.host.operator_secret()}
            case "restart":
                replaced = await self.host.replicas.roll(self._replaceable(request["name"]), say)
                return [{"old": old.name, "new": new.name} for old, new in replaced]
            case "scale":
                return await self._scale(request["name"], int(request["count"]), say)
            case "canary":
                return await canaries.weigh(self.host, self._replaceable(request["name"]), int(request["weight"]))
            case "promote":
                promoted = await canaries.promote(self.host, self._replaceable(request["name"]), say)
                return str(promoted.folder)
            case "abort":
                await canaries.abort(self.host, self._replaceable(request["name"]))
            case "lend":
                return await self._lend(request["name"], int(request["pid"]))
            case "release":
                await self._take_back(request["name"])
            case other:
                raise SystemMistake(f"the host knows no {other!r}", hint="host and command are of different versions of atoll?")
        return None

    def _replaceable(self, name: str) -> str:
        """The name of a service that can run now. Raises SystemMistake."""
        spec = self.host.spec(name)
        if name in self.host.down:
            raise EngineOutage(f"{name} is down: {self.host.down[name]}")
        if spec.kind == "simulator" or name not in self.host.contracts or name not in self.host.urls:
            raise SystemMistake(f"{name} can't be asked for that", hint="it is a simulator, or not started yet: `atoll ps`")
        return name

    async def _scale(self, name: str, count: int, say: Callable[[str], None]) -> list[str]:
        service = self._replaceable(name)
        if not 0 <= count <= MOST_REPLICAS:
            raise SystemMistake(f"{service} can have 0 to {MOST_REPLICAS} replicas, not {count}")
        if count > 1 and self.host.contracts[service].database == "sqlite":
            raise SystemMistake(f"{service} has its data in SQLite, which one replica writes", hint="PostgreSQL takes many")
        await self.host.replicas.scale(service, count)
        names = [slot.name for slot in self.host.replicas.slots(service)]
        say(f"{service}: {', '.join(names) or 'no replica'}")
        return names

    def _described(self, name: str, slot: Slot | None = None) -> dict[str, Any]:
        """How a process of `name` would be started: also what `atoll run` becomes."""
        plan = self.host.plan(name, slot or self.host.replicas.slot(name, 1))
        return {
            "replica": plan.name,
            "argv": list(plan.argv),
            "environment": dict(plan.environment),
            "folder": str(plan.folder),
            "system": str(self.host.system.folder),
        }

    async def _lend(self, name: str, pid: int) -> dict[str, Any]:
        """A free slot for the process `pid`; the supervised replicas go when the gateway has found it."""
        service = self._replaceable(name)
        if service in self.lent:
            raise SystemMistake(f"{service} runs in a foreground already (pid {self.lent[service].pid})", hint="end that first")
        async with self.host.replicas.lock(service):
            former = self.host.replicas.slots(service)
            (slot,) = self.host.replicas.free(service, 1)
            self.lent[service] = Lent(slot, pid, len(former))
        self.host.go(self._give_way(service, slot, former))
        return self._described(service, slot)

    async def _give_way(self, service: str, slot: Slot, former: Iterable[Slot]) -> None:
        """Old ones stay until requests reach the new one, however long its debugger takes."""
        if self.host.is_mute(service):
            await healthy(slot.port)
            await self.host.arrived(slot)
        while service in self.lent and self.lent[service].slot == slot:
            if await self.host.gateway.confirm(service, slot.address):
                await asyncio.gather(*(self.host.replicas.stop_slot(old) for old in former))
                return

    async def _take_back(self, name: str) -> None:
        lent = self.lent.pop(name, None)
        if lent is None or self.host.stopping.is_set():
            return
        with contextlib.suppress(AtollError):
            await self.host.announcer.withdraw(lent.slot)
            await self.host.bus.forget(f"{name}.{lent.slot.name}")
        missing = lent.count - len(self.host.replicas.slots(name))
        if missing > 0:
            self.host.say(f"{lent.slot.name} left the foreground; {name} is supervised again")
            await self.host.replicas.start(name, missing)

    def end(self) -> None:
        """Foreground processes end with the system."""
        for lent in self.lent.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(lent.pid, signal.SIGTERM)
