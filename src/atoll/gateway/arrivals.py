"""Which replicas are new beside others of their service: they get a small share of its requests at first.

Envoy's own slow start is for who becomes healthy again. A change of the set makes all replicas new to it, and so all alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from atoll.gateway.known import GATEWAY, Known, Replica

__all__ = ["Arrivals"]

# Who comes so soon after another one has been started with it.
_TOGETHER_S = 1.0


class Arrivals:
    """Begins with the replicas of `known`, which were there before. `clock` never goes back."""

    def __init__(self, known: Known, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = dict.fromkeys(known.replicas, clock() - _TOGETHER_S)
        self._until: dict[str, float] = {}

    def fresh(self, known: Known) -> frozenset[str]:
        """The registry keys of those that are new, each for its service's `slow_start_s`."""
        present = [one for one in known.present if one.service != GATEWAY]
        self._forget({one.key for one in present})
        for one in present:
            if one.key not in self._since:
                self._arrive(one, known, present)
        now = self._clock()
        return frozenset(key for key, until in self._until.items() if until > now)

    @property
    def changes_in_s(self) -> float | None:
        """How long until one of them is new no longer; None when none is."""
        now = self._clock()
        return min((until - now for until in self._until.values() if until > now), default=None)

    def _forget(self, present: set[str]) -> None:
        for gone in self._since.keys() - present:
            del self._since[gone]
            self._until.pop(gone, None)

    def _arrive(self, one: Replica, known: Known, present: list[Replica]) -> None:
        now, service = self._clock(), known.system.services.get(one.service)
        others = (other for other in present if (other.service, other.canary) == (one.service, one.canary))
        beside = any(self._since.get(other.key, now) <= now - _TOGETHER_S for other in others)
        self._since[one.key] = now
        if service is not None and beside:
            self._until[one.key] = now + service.failures.slow_start_s
