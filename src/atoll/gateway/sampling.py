"""Which requests are asked a second time: the part of `translate` that is about mirrors. Pure.

A mirror's second service has no routes, so that a path has one owner as long as answers are only compared: the service that
takes over declares the paths it will have, and gets them when its mirror leaves the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from atoll.gateway.ir import Entry, Listener, Mirror, Route, Sample
from atoll.gateway.known import MirrorEntry, SystemEntry
from atoll.gateway.offers import deployed
from atoll.gateway.paths import Path

__all__ = ["SAFE", "Usable", "of_fallback", "sampled", "usable"]

SAFE = ("GET", "HEAD")
_PARAMETER = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Usable:
    """A mirror whose services are there, and what the manifest says of it."""

    mirror: Mirror
    entry: MirrorEntry
    is_fallback: bool

    @property
    def unsafe(self) -> tuple[tuple[str, Path], ...]:
        """Operations with effects that a person has marked, as method and path."""
        return tuple((method, Path(path)) for method, _, path in (one.partition(" ") for one in self.entry.unsafe))


def usable(system: SystemEntry, listener: Listener, faults: list[str]) -> tuple[Usable, ...]:
    """The mirrors that can do something; `faults` says why another can't."""
    found = []
    for name, entry in sorted(system.mirrors.items()):
        missing = sorted({entry.primary, entry.second} - set(deployed(system)))
        if missing:
            faults.append(f"the mirror {name} is left out: there is no service {missing[0]}")
        elif listener.comparer is None:
            faults.append(f"the mirror {name} is left out: no process compares answers here (ATOLL_MIRROR_ADDRESS)")
        else:
            mirror = Mirror(name, entry.primary, entry.second, entry.ignore)
            found.append(Usable(mirror, entry, system.fallback == entry.primary))
    return tuple(found)


def sampled(mirrors: Sequence[Usable], table: tuple[Entry, ...], faults: list[str]) -> tuple[Entry, ...]:
    """The table, each route with what is sent to mirrors of it."""
    if not mirrors:
        return table
    found = tuple(replace(one, sample=tuple(_samples(mirrors, one))) if isinstance(one, Route) else one for one in table)
    taken = {sample.mirror for one in found if isinstance(one, Route) for sample in one.sample}
    for one in mirrors:
        if not one.is_fallback and one.mirror.name not in taken:
            faults.append(
                f"the mirror {one.mirror.name} has nothing to do: no operation of {one.mirror.primary} is in its paths"
            )
    return found


def of_fallback(mirrors: Sequence[Usable]) -> tuple[Sample, ...]:
    """What is compared of the paths that no service owns."""
    return tuple(sample for one in mirrors if one.is_fallback for sample in _of_fallback(one))


def _of_fallback(one: Usable) -> Iterable[Sample]:
    name, entry = one.mirror.name, one.entry
    yield Sample(name, entry.share, SAFE, prefixes=entry.paths)
    for method in sorted({method for method, _ in one.unsafe}):
        templates = tuple(path for marked, path in one.unsafe if marked == method)
        yield Sample(name, entry.share, (method,), templates=templates)


def _samples(mirrors: Sequence[Usable], route: Route) -> Iterable[Sample]:
    for one in mirrors:
        if one.mirror.primary == route.service and not route.websocket:
            yield from _safe(one, route) if set(route.methods) <= set(SAFE) else _unsafe(one, route)


def _safe(one: Usable, route: Route) -> Iterable[Sample]:
    name, entry = one.mirror.name, one.entry
    if not entry.paths or any(route.path.under(prefix) for prefix in entry.paths):
        yield Sample(name, entry.share, route.methods)
    elif prefixes := tuple(prefix for prefix in entry.paths if route.path.reaches_into(prefix)):
        yield Sample(name, entry.share, route.methods, prefixes=prefixes)


def _unsafe(one: Usable, route: Route) -> Iterable[Sample]:
    """A person marks what an operation does; one that takes many paths is mirrored at those that were marked."""
    marked = [path for method, path in one.unsafe if method in route.methods]
    name, share = one.mirror.name, one.entry.share
    if any(path.shape == route.path.shape for path in marked):
        yield Sample(name, share, route.methods)
    elif within := tuple(path for path in marked if route.path.matches(_PARAMETER.sub("x", path.template))):
        yield Sample(name, share, route.methods, templates=within)
