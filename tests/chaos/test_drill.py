"""Promises 1, 2, 3: nothing acknowledged is lost, nothing counts twice, order per key holds, whatever is killed when."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.drill import Plan, drill, report

HIT = {"nats", "envoy", "gateway", "auth", "catalog", "orders", "inventory", "payments", "notifications"} | {
    f"{service}.{engine}" for service, engine in (("catalog", "mongodb"), ("orders", "postgresql"), ("inventory", "postgresql"))
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not under pytest's own root, which only its owner may enter: PostgreSQL runs as another user."""
    with tempfile.TemporaryDirectory(prefix="atoll-drill-") as made:
        Path(made).chmod(0o755)
        yield Path(made) / "shop"


async def test_nothing_is_lost_or_doubled_or_out_of_order_whatever_is_killed(folder: Path) -> None:
    findings = await drill(Plan(kills=66, seed=20261123), folder)

    assert findings.wrong == [], report(findings)
    assert findings.killed.total() >= 60, report(findings)
    assert not HIT - {name.removesuffix(" (paused)").rstrip("-123456789") for name in findings.killed}, report(findings)
    assert any("paused" in name for name in findings.killed), report(findings)
    assert findings.by_itself > 0, report(findings)
    assert findings.replayed > 0, report(findings)  # each would have been a second order
    assert len(findings.accepted) > 300, report(findings)


async def test_the_drill_notices_when_the_inbox_is_missing(folder: Path) -> None:
    plan = Plan(kills=6, seed=7, inbox=False, faults="relay.published:0.05,consumer.committed:0.0")
    findings = await drill(plan, folder)

    assert findings.twice > 0, report(findings)
