"""Counts and times of one process, and the text that Prometheus reads (exposition format 0.0.4).

Counting costs half a microsecond and takes no lock: it happens on one event loop. Every label has a bounded set of values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

__all__ = ["BOUNDS_S", "MEDIA_TYPE", "Family", "Meter", "Sample", "counted", "text"]

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labels = Mapping[str, str]


class Meter:
    """How often something ended how, and how long it took."""

    __slots__ = ("_buckets", "_outcomes", "_sum_s")

    def __init__(self) -> None:
        self._outcomes: dict[int | str, int] = {}
        self._buckets = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def count(self, outcome: int | str, seconds: float) -> None:
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        self._buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def outcomes(self, labels: Labels, name: str) -> Iterator[Sample]:
        """One sample for each outcome, its label called `name`."""
        for outcome, count in self._outcomes.items():
            yield Sample(count, {**labels, name: str(outcome)})

    def times(self, labels: Labels) -> Iterator[Sample]:
        """The samples of a histogram."""
        total = 0
        for bound, count in zip((*map(_number, BOUNDS_S), "+Inf"), self._buckets, strict=True):
            total += count
            yield Sample(total, {**labels, "le": bound}, "_bucket")
        yield Sample(self._sum_s, labels, "_sum")
        yield Sample(total, labels, "_count")


class Sample(msgspec.Struct, frozen=True):
    """One line. `suffix` is for the parts of a histogram."""

    value: float
    labels: Labels = {}
    suffix: str = ""


class Family(msgspec.Struct, frozen=True):
    """All lines of one name, which says its unit."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Iterable[Sample]


def counted(name: str, outcome: str, what: str, meters: Mapping[str, Meter]) -> Iterator[Family]:
    """Two families of some meters, by the label `what`: how often with which outcome, and how long."""
    plural = f"{name}s"
    ended = [one for key, meter in meters.items() for one in meter.outcomes({what: key}, outcome)]
    yield Family(f"atoll_{plural}_total", "counter", f"{plural} by {what} and {outcome}", ended)
    times = [one for key, meter in meters.items() for one in meter.times({what: key})]
    yield Family(f"atoll_{name}_seconds", "histogram", f"how long handlers of {plural} took", times)


def text(families: Iterable[Family], common: Labels) -> str:
    """`common` labels stand in every line."""
    return "".join(line for family in families for line in _lines(family, common))


def _lines(family: Family, common: Labels) -> Iterator[str]:
    yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
    for sample in family.samples:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in {**common, **sample.labels}.items())
        yield f"{family.name}{sample.suffix}{{{labels}}} {_number(sample.value)}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return repr(value) if isinstance(value, float) else str(value)
