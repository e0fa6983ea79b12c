"""The replicas of each service: which slots are filled, and how they are replaced without a failed request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from atoll.host.machine import Machine
from atoll.host.probes import probe
from atoll.host.processes import ProcessSpec, Slot

__all__ = ["Replicas"]

Plan = Callable[[str, Slot], ProcessSpec]
Confirm = Callable[[str, str], Awaitable[bool]]  # service, address → the gateway sends requests there now
Tell = Callable[[Slot], Awaitable[None]]


@dataclass
class Replicas:
    """One `change` at a time per service; different services change beside each other."""

    machine: Machine
    plan: Plan
    confirm: Confirm
    arrived: Tell  # a replica is healthy
    leaving: Tell  # and here it is about to be stopped
    filled: dict[str, list[Slot]] = field(default_factory=dict)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    def lock(self, service: str) -> asyncio.Lock:
        return self._locks.setdefault(service, asyncio.Lock())

    def slots(self, service: str) -> list[Slot]:
        return list(self.filled.get(service, []))

    async def start(self, service: str, count: int) -> None:
        """Fills `count` further slots at once. Raises Died."""
        slots = self.free(service, count)
        self.filled.setdefault(service, []).extend(slots)
        starting = [asyncio.create_task(self._start(slot)) for slot in slots]
        try:
            await asyncio.gather(*starting)
        except BaseException:
            for task in starting:
                task.cancel()
            raise

    async def scale(self, service: str, count: int) -> None:
        """More are started and confirmed; surplus ones drain, the youngest first."""
        async with self.lock(service):
            have = self.slots(service)
            if count > len(have):
                await self.start(service, count - len(have))
                new = [slot for slot in self.slots(service) if slot not in have]
                await asyncio.gather(*(self.confirm(service, slot.address) for slot in new))
            else:
                surplus = have[count:]
                await asyncio.gather(*(self.stop_slot(slot) for slot in surplus))

    async def roll(self, service: str, say: Callable[[str], None]) -> list[tuple[Slot, Slot]]:
        """Each replica in turn: a new one is started, the gateway confirms it, the old one drains and goes.

        Gives each old one with the new one that has taken over from it.
        """
        async with self.lock(service):
            replaced = []
            for old in self.slots(service):
                (new,) = self.free(service, 1)
                self.filled[service].append(new)
                await self._start(new)
                if not await self.confirm(service, new.address):
                    say(f"the gateway has not confirmed {new.name} yet; it goes on without waiting longer")
                await self.stop_slot(old)
                say(f"{new.name} has taken over from {old.name}")
                replaced.append((old, new))
            return replaced

    async def stop(self, service: str) -> None:
        async with self.lock(service):
            await asyncio.gather(*(self.stop_slot(slot) for slot in self.slots(service)))

    async def stop_slot(self, slot: Slot) -> None:
        await self.leaving(slot)
        await self.machine.supervisor.stop(slot.name)
        if slot in self.filled.get(slot.service, []):
            self.filled[slot.service].remove(slot)

    def slot(self, service: str, number: int) -> Slot:
        return Slot(service, number, self.machine.ports.lease(f"{service}-{number}"))

    def free(self, service: str, count: int) -> list[Slot]:
        """The lowest numbers that nobody has."""
        taken = {slot.number for slot in self.filled.get(service, [])}
        numbers = [number for number in range(1, len(taken) + count + 1) if number not in taken][:count]
        ports = self.machine.ports.lease_all(f"{service}-{number}" for number in numbers)
        return [Slot(service, number, port) for number, port in zip(numbers, ports, strict=True)]

    async def _start(self, slot: Slot) -> None:
        try:
            await self.machine.supervisor.start(self.plan(slot.service, slot), probe)
            await self.arrived(slot)
        except BaseException:
            self.filled[slot.service].remove(slot)
            raise
