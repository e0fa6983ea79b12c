"""What comparing has shown so far, as a bounded record: `.atoll/mirror/NAME.json`.

Counts by operation, and for each operation its distinct differences with one example. Whatever the traffic is, it stays at some
hundred kilobytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from atoll.gateway.files import write
from atoll.gateway.mirror.differences import Difference

__all__ = ["MOST_DIFFERENCES", "MOST_OPERATIONS", "Entry", "Moment", "Operation", "Report"]

MOST_DIFFERENCES = 20
MOST_OPERATIONS = 200
_OTHERS = "(others)"


class Moment(msgspec.Struct, frozen=True):
    """When a sample was taken, in UTC, and under which id its request stands in the access log."""

    time: str
    request_id: str


class Entry(msgspec.Struct):
    """One kind of difference at one place. `first` and `second` are what the last one looked like, in request `request_id`."""

    kind: str
    where: str
    first: str
    second: str
    count: int
    first_seen: str
    last_seen: str
    request_id: str


class Operation(msgspec.Struct):
    """`second_failed`: it could not be asked, or did not answer whole. `unlisted` differences were at further places."""

    same: int = 0
    different: int = 0
    second_failed: int = 0
    not_comparable: dict[str, int] = {}
    differences: list[Entry] = []
    unlisted: int = 0

    @property
    def compared(self) -> int:
        return self.same + self.different

    @property
    def is_clean(self) -> bool:
        return not self.different and not self.second_failed


class Report(msgspec.Struct):
    """One mirror's. `dropped` samples came faster than they could be taken."""

    mirror: str
    first: str
    second: str
    since: str
    updated: str = ""
    dropped: int = 0
    operations: dict[str, Operation] = {}

    def compared(self, operation: str, found: Sequence[Difference], moment: Moment) -> None:
        """Both answered."""
        entry = self._operation(operation, moment)
        entry.same += not found
        entry.different += bool(found)
        for one in found:
            _count(entry, one, moment)

    def failed(self, operation: str, why: str, status: int, moment: Moment) -> None:
        """The second one could not be asked."""
        entry = self._operation(operation, moment)
        entry.second_failed += 1
        _count(entry, Difference("failure", "", str(status), why), moment)

    def left_out(self, operation: str, why: str, moment: Moment) -> None:
        """There is nothing to compare."""
        entry = self._operation(operation, moment)
        entry.not_comparable[why] = entry.not_comparable.get(why, 0) + 1

    def _operation(self, name: str, moment: Moment) -> Operation:
        self.updated = moment.time
        if name not in self.operations and len(self.operations) >= MOST_OPERATIONS:
            name = _OTHERS
        return self.operations.setdefault(name, Operation())

    def save(self, path: Path) -> None:
        write(path, msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def read(cls, path: Path) -> Report | None:
        """None when there is none that can be read."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError):
            return None


def _count(operation: Operation, found: Difference, moment: Moment) -> None:
    known = next((one for one in operation.differences if (one.kind, one.where) == (found.kind, found.where)), None)
    if known is None:
        if len(operation.differences) >= MOST_DIFFERENCES:
            operation.unlisted += 1
            return
        known = Entry(found.kind, found.where, "", "", 0, moment.time, "", "")
        operation.differences.append(known)
    known.count += 1
    known.first, known.second = found.first, found.second
    known.last_seen, known.request_id = moment.time, moment.request_id
