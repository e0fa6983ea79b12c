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
_WAITING = 40


@dataclass(frozen=True, slots=True)
class Answer:
    """The same for all `paths`: as `one`, which is for the first of them, has it."""

    one: MethodList | MethodRefusal
    paths: tuple[Path, ...]


def together(entries: Iterable[Entry]) -> Iterator[Entry | Answer]:
    """The same table in fewer entries: every request meets what it met, whatever its method and path are."""
    waiting: list[MethodList | MethodRefusal] = []
    service = ""
    for entry in entries:
        if isinstance(entry, MethodRefusal) or (isinstance(entry, MethodList) and not entry.preflight):
            waiting.append(entry)
            continue
        if not isinstance(entry, Route) or entry.service != service or _is_time(waiting, entry.path):
            yield from _answers(waiting)
            waiting = []
        service = entry.service if isinstance(entry, Route) else ""
        yield entry
    yield from _answers(waiting)


def _is_time(waiting: Sequence[MethodList | MethodRefusal], path: Path) -> bool:
    """Before an entry for `path`, which may take what they are for."""
    return len(waiting) >= _WAITING or any(one.path.meets(path) for one in waiting)


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
