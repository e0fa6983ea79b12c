"""The capacity table in docs/how-to/run-in-production.md follows from what was measured, by the rule that stands above it."""

from __future__ import annotations

import re

import pytest

from tests.support.pages import DOCS, rows

GUIDE, MEASURED = DOCS / "how-to" / "run-in-production.md", DOCS / "explanation" / "performance.md"
HEADING = "### What one core does"
USABLE_US = 700_000
"""Of a core's second."""


def measured() -> dict[tuple[str, str], int]:
    """µs of CPU a request, by process and kind of request."""
    kinds = ("GET", "order", "GET, PostgreSQL", "order, PostgreSQL")
    found: dict[tuple[str, str], int] = {}
    for process, *cells in rows(MEASURED, "### By process, for sizing"):
        found |= {(process, kind): int(cell) for kind, cell in zip(kinds, cells, strict=True) if cell.isdigit()}
    return found


def test_every_number_is_the_measured_one_by_the_rule() -> None:
    known, checked = measured(), 0
    for process, kind, us, rate in rows(GUIDE, HEADING):
        assert int(us) == known[process, kind], (process, kind)
        assert int(rate.replace(",", "")) == pytest.approx(USABLE_US / int(us), rel=0.01), (process, kind)
        checked += 1
    assert checked >= 8


def test_the_example_is_computed_by_the_same_rule() -> None:
    text = GUIDE.read_text()
    found = re.findall(r"(\d[\d,]*) × (\d+) \+ (\d[\d,]*) × (\d+) = ([\d,]+) µs.*?([\d.]+) cores", text)
    assert found
    for first, first_us, second, second_us, total, cores in found:
        sum_us = int(first.replace(",", "")) * int(first_us) + int(second.replace(",", "")) * int(second_us)
        assert sum_us == int(total.replace(",", ""))
        assert float(cores) == pytest.approx(sum_us / USABLE_US, abs=0.05)
