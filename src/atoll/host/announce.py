"""Announces replicas that can't do so themselves: clients have no bus user, and a `command` has no atoll inside."""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.bus.jetstream import JetStreamBus
from atoll.host.bus import BusHost
from atoll.host.processes import Slot
from atoll.provision import nats
from atoll.registry.announcement import Announcement
from atoll.registry.replica import Replica

__all__ = ["Announcer"]


@dataclass
class Announcer:
    """Speaks as the platform's administrator, on one connection."""

    bus_host: BusHost
    bus: JetStreamBus | None = None
    announcements: dict[str, Announcement] = field(default_factory=dict)

    async def start(self) -> None:
        """Returns at once; entries are written as soon as the bus is there."""
        self.bus = JetStreamBus(self.bus_host.url(nats.PLATFORM_ADMIN), name="host")
        await self.bus.start()

    async def announce(self, slot: Slot, digest: str) -> None:
        if self.bus is None or slot.name in self.announcements:
            return
        entry = Replica(service=slot.service, replica=slot.name, address=slot.address, digest=digest)
        self.announcements[slot.name] = Announcement(self.bus, entry)
        await self.announcements[slot.name].start()

    async def withdraw(self, slot: Slot) -> None:
        """Removes the entry, if there is one."""
        announcement = self.announcements.pop(slot.name, None)
        if announcement is not None:
            await announcement.withdraw()

    async def close(self) -> None:
        """Entries stay: what is stopped with the whole system is cleaned up when that starts again."""
        self.announcements.clear()
        if self.bus is not None:
            await self.bus.close()
