"""What the gateway answers itself for methods that a path does not take, for many paths in one entry.

Each path has two such answers, so they would be two thirds of a table, all of which Envoy reads again at every change. They
stand behind the operations of their path and before the next path that takes requests of theirs too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from atoll.gateway.ir import Entry, MethodList, MethodRefusal, Route
from atoll.gateway.paths import Path

__all__ = ["Answer", "together"]

# So many characters are far from the largest expression that Envoy takes (`bootstrap`).
_EXPRESSION = 2_000
_MOST = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """The same for all `paths`: as `one`, which is for the first of them, has it."""

    one: MethodList | MethodRefusal
    paths: tuple[Path, ...]


def together(entries: Iterable[Entry]) -> Iterator[Entry | Answer]:
    """The same table in fewer entries: every request meets what it met, whatever its method and path are."""
    waiting = _Waiting()
    service = ""
    for entry in entries:
        if isinstance(entry, MethodRefusal) or (isinstance(entry, MethodList) and not entry.preflight):
            waiting.add(entry)
            continue
        if not isinstance(entry, Route) or entry.service != service or waiting.must_stand_before(entry.path):
            yield from _answers(waiting.answers)
            waiting = _Waiting()
        service = entry.service if isinstance(entry, Route) else ""
        yield entry
    yield from _answers(waiting.answers)


class _Waiting:
    """Answers that may stand behind what comes next, as long as that takes none of their requests."""

    def __init__(self) -> None:
        self.answers: list[MethodList | MethodRefusal] = []
        self._paths: dict[tuple[int, bool], list[Path]] = {}

    def add(self, answer: MethodList | MethodRefusal) -> None:
        self.answers.append(answer)
        # Every path has a refusal.
        if isinstance(answer, MethodRefusal):
            self._paths.setdefault(_kind(answer.path), []).append(answer.path)

    def must_stand_before(self, path: Path) -> bool:
        """Also when there are so many that looking for those which must would take longer than it saves."""
        kind = _kind(path)
        near = (one for other, some in self._paths.items() if _may_meet(kind, other) for one in some)
        return len(self.answers) >= _MOST or any(one.meets(path) for one in near)


def _kind(path: Path) -> tuple[int, bool]:
    """How many segments it has, -1 for any number; and whether it has a parameter. Most pairs are told apart by that."""
    return -1 if path.has_rest else path.template.count("/"), "{" in path.template


def _may_meet(one: tuple[int, bool], other: tuple[int, bool]) -> bool:
    return -1 in (one[0], other[0]) or (one[0] == other[0] and (one[1] or other[1]))


def _answers(waiting: Sequence[MethodList | MethodRefusal]) -> Iterator[Answer]:
    """OPTIONS first: a refusal is for every method that is left."""
    for kind in (MethodList, MethodRefusal):
        same: dict[tuple[str, ...], list[MethodList | MethodRefusal]] = {}
        for one in waiting:
            if isinstance(one, kind):
                same.setdefault(one.allow, []).append(one)
        for some in same.values():
            yield from _of_a_size(some)


def _of_a_size(same: Sequence[MethodList | MethodRefusal]) -> Iterator[Answer]:
    paths: list[Path] = []
    for one in same:
        if paths and sum(len(path.regex) for path in (*paths, one.path)) > _EXPRESSION:
            yield Answer(same[0], tuple(paths))
            paths = []
        paths.append(one.path)
    yield Answer(same[0], tuple(paths))
