"""What one service process says of itself at `/health/metrics`, which is never routed to clients."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atoll.database.ports import Database
from atoll.errors import DatabaseOutage
from atoll.service.stalls import StallWatch
from atoll.telemetry.metrics import Family, Meter, Sample, counted, text
from atoll.telemetry.spans import Spans

if TYPE_CHECKING:
    from atoll.bus.ports import Bus

__all__ = ["Metrics"]

_PARKED_MOST = 10_000


@dataclass
class Metrics:
    """`operations` and `events` are what is counted while the process serves, by operation's id and by event type; `behind`
    says how many events of each stream wait for it. Not `stands`: its database may not be open yet.
    """

    service: str
    replica: str
    database: Database | None
    bus: Bus | None
    stalls: StallWatch
    spans: Spans
    operations: Mapping[str, Meter] = field(default_factory=dict)
    events: dict[str, Meter] = field(default_factory=dict)
    behind: Callable[[], Mapping[str, int]] = dict
    stands: bool = False

    async def text(self) -> str:
        """All of it, now. A database that does not answer leaves out what only it knows."""
        families = [*self._counted(), *self._process()]
        try:
            families += [one async for one in self._stored()]
        except DatabaseOutage:
            families.append(Family("atoll_database_up", "gauge", "whether the service's own database answers", [Sample(0)]))
        return text(families, {"service": self.service, "replica": self.replica})

    def _counted(self) -> Iterator[Family]:
        yield from counted("request", "status", "operation", self.operations)
        yield from counted("event", "outcome", "type", self.events)

    def _process(self) -> Iterator[Family]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield Family("atoll_cpu_seconds_total", "counter", "CPU time of the process", [Sample(usage.ru_utime + usage.ru_stime)])
        yield Family("atoll_memory_bytes", "gauge", "resident memory at its highest", [Sample(usage.ru_maxrss * 1024)])
        stalls = [Sample(self.stalls.told)]
        yield Family("atoll_loop_stalls_total", "counter", "stalls of the event loop over 100 ms", stalls)
        yield Family("atoll_spans_total", "counter", "spans made", [Sample(self.spans.recorded)])
        dropped = [Sample(self.spans.dropped)]
        yield Family("atoll_spans_dropped_total", "counter", "spans that found no room or were refused", dropped)
        if self.bus is not None:
            yield Family("atoll_bus_connected", "gauge", "whether the bus is there", [Sample(int(self.bus.connected))])

    async def _stored(self) -> AsyncIterator[Family]:
        if self.database is None or not self.stands:
            return
        journal = self.database.journal
        backlog = await journal.backlog()
        yield Family("atoll_database_up", "gauge", "whether the service's own database answers", [Sample(1)])
        yield Family("atoll_outbox_rows", "gauge", "events that wait to be published", [Sample(backlog.count)])
        oldest = [Sample(backlog.oldest_age_s)]
        yield Family("atoll_outbox_oldest_seconds", "gauge", "for how long the oldest of them has waited", oldest)
        parked = Counter((one.source, one.state) for one in await journal.parked(limit=_PARKED_MOST))
        samples = [Sample(count, {"source": source, "state": state}) for (source, state), count in sorted(parked.items())]
        yield Family("atoll_parked_events", "gauge", "events to be tried again (waiting), and dead letters (dead)", samples)
        sources = sorted({type.partition(".")[0] for type in self.events})
        positions = [Sample(await journal.position(source) or 0, {"source": source}) for source in sources]
        yield Family("atoll_consumer_position", "gauge", "the last message of each stream that was handled", positions)
        behind = [Sample(count, {"source": source}) for source, count in self.behind().items()]
        yield Family("atoll_consumer_behind", "gauge", "events of each stream that wait for this replica", behind)
