"""A report as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from atoll.gateway.mirror.report import MOST_DIFFERENCES, Entry, Operation, Report

__all__ = ["text"]

_WORDS = {
    "streaming": "streaming",
    "too_large": "too large",
    "encoded": "packed",
    "first_failed": "first failed",
    "not_modified": "not modified",
}


def text(report: Report) -> str:
    """A table of operations, then what differs in each."""
    lines = [f"{report.mirror}: {report.first} answers, {report.second} is compared, since {report.since}", ""]
    lines += _table(report)
    if report.dropped:
        lines.append(f"  {report.dropped} samples came too fast and were left out")
    for name, operation in sorted(report.operations.items()):
        if operation.differences:
            lines += ["", f"  {name}", *_differences(report, operation)]
    return "\n".join(lines)


def _table(report: Report) -> Iterator[str]:
    titles = ("OPERATION", "COMPARED", "SAME", "DIFFERENT", "FAILED", "NOT COMPARABLE")
    rows = [titles, *(_row(name, operation) for name, operation in sorted(report.operations.items()))]
    widths = [max(len(row[at]) for row in rows) for at in range(len(titles))]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(name: str, one: Operation) -> tuple[str, ...]:
    numbers = (one.compared, one.same, one.different, one.second_failed)
    left_out = ", ".join(f"{count} {_WORDS.get(why, why)}" for why, count in sorted(one.not_comparable.items()))
    return (name, *map(str, numbers), left_out)


def _differences(report: Report, operation: Operation) -> Iterator[str]:
    width = max(len(report.first), len(report.second))
    for one in sorted(operation.differences, key=lambda one: -one.count):
        yield f"    {_place(one)}, {one.count} times, last {one.last_seen} in request {one.request_id}"
        yield f"      {report.first:<{width}}  {one.first}"
        yield f"      {report.second:<{width}}  {one.second}"
    if operation.unlisted:
        yield f"    and {operation.unlisted} times at further places: only the first {MOST_DIFFERENCES} are listed"


def _place(one: Entry) -> str:
    return f"{one.kind} {one.where}" if one.where else one.kind
