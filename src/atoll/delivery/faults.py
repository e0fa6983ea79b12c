"""Faults on purpose, for drills: `ATOLL_FAULTS=relay.published:0.02,consumer.committed:0.02,while:/tmp/drill,inbox:off`.

The points are the worst moments to die at, `while` names a file whose removal ends it; `inbox:off` shows that a drill
notices when the inbox is missing. Unset, `reached` costs one comparison per batch or kept answer.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Mapping

__all__ = ["Faults"]

POINTS = ("relay.published", "consumer.committed", "answer.committed")


class Faults:
    """`chances`: how likely the process kills itself at a point, while the file `flag` exists."""

    def __init__(self, chances: Mapping[str, float], flag: str = "", *, inbox: bool = True) -> None:
        self._chances = chances
        self._flag = flag
        self.inbox = inbox

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Faults:
        entries = dict(entry.split(":", 1) for entry in variables.get("ATOLL_FAULTS", "").split(",") if ":" in entry)
        inbox = entries.pop("inbox", "on") != "off"
        flag = entries.pop("while", "")
        return cls({point: float(entries[point]) for point in POINTS if point in entries}, flag, inbox=inbox)

    def reached(self, point: str) -> None:
        """The process may end here, as if the machine had chosen this moment."""
        if self._chances and random.random() < self._chances.get(point, 0.0) and os.path.exists(self._flag):
            os.kill(os.getpid(), signal.SIGKILL)


FAULTS = Faults.read(os.environ)
