"""What the bus must be like for a set of contracts: who publishes, who consumes what from whom. Frozen data, computed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from atoll.errors import SystemMistake
from atoll.system.contract import Contract

__all__ = ["AUTH", "BusPlan", "BusService", "BusSource"]

AUTH = "auth"
"""The one service that publishes keys."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_EVENT = re.compile(r"[a-z][a-z0-9_]{0,79}")
_RESERVED = frozenset({"platform", "sys", "gateway", "keys", "system"})


@dataclass(frozen=True, slots=True)
class BusSource:
    """What one service consumes of another's stream."""

    stream: str
    events: tuple[str, ...]

    @property
    def filters(self) -> tuple[str, ...]:
        """The subjects, over all partitions."""
        return tuple(f"event.{self.stream}.{event}.*" for event in self.events)


@dataclass(frozen=True, slots=True)
class BusService:
    """One user of the bus, with a stream of its own. `publishes` maps event names to partitions."""

    name: str
    publishes: Mapping[str, int] = field(default_factory=dict)
    sources: tuple[BusSource, ...] = ()


@dataclass(frozen=True, slots=True)
class BusPlan:
    """Everything provision makes on the bus. `warnings` are subscriptions that can't be served, for a person to read."""

    services: tuple[BusService, ...]
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, contracts: Mapping[str, Contract], *, clients: Collection[str] = (), beside: Collection[Contract] = ()
    ) -> BusPlan:
        """`clients` have no bus user; `beside` are contracts of other versions that run, or may, beside the present ones.

        Raises SystemMistake for a name that can't stand in a subject.
        """
        known = {
            name: contract.beside(*(one for one in beside if one.service == name))
            for name, contract in sorted(contracts.items())
            if name not in clients
        }
        warnings: list[str] = []
        services = tuple(_service(name, contract, known, warnings) for name, contract in known.items())
        return cls(services, tuple(warnings))

    @property
    def consumers(self) -> dict[str, dict[str, BusSource]]:
        """By publisher: who consumes what of it."""
        found: dict[str, dict[str, BusSource]] = {service.name: {} for service in self.services}
        for service in self.services:
            for source in service.sources:
                found[source.stream][service.name] = source
        return found


def _service(name: str, contract: Contract, known: Mapping[str, Contract], warnings: list[str]) -> BusService:
    _check(_NAME, name, f"{name!r} can't be the name of a service")
    if name in _RESERVED or name.endswith("-admin"):
        raise SystemMistake(f"{name!r} is a name atoll keeps for itself", hint="choose another name for this service")
    publishes = {}
    for event in contract.publishes:
        _check(_EVENT, event.name, f"{name}: {event.name!r} can't be the name of an event")
        publishes[event.name] = event.partitions
    sources = []
    for stream, events in contract.sources.items():
        if stream not in known:
            warnings.append(f"{name} consumes {', '.join(events)} of {stream}, but there is no service {stream}")
            continue
        for event_name in events:
            _check(_EVENT, event_name, f"{name}: {event_name!r} can't be the name of an event")
        published = {event.name for event in known[stream].publishes}
        warnings += [
            f"{name} consumes {stream}.{event}, which {stream} does not publish" for event in events if event not in published
        ]
        sources.append(BusSource(stream, events))
    return BusService(name, publishes, tuple(sources))


def _check(pattern: re.Pattern[str], name: str, detail: str) -> None:
    if not pattern.fullmatch(name):
        raise SystemMistake(
            detail, hint="lower-case letters, digits, _ (and - for services), a letter first: it stands in subjects for ever"
        )
