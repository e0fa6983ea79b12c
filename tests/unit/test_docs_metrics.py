"""docs/reference/metrics.md has every metric of a service, with its kind."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from atoll.bus.memory import Broker
from atoll.database import open_database
from atoll.service.metrics import Metrics
from atoll.service.stalls import StallWatch
from atoll.telemetry.metrics import Family, Meter, Sample, text
from atoll.telemetry.spans import Spans
from tests.support.pages import DOCS, names, rows

PAGE = DOCS / "reference" / "metrics.md"


async def told(folder: Path) -> str:
    database = open_database(f"sqlite://{folder}/orders.sqlite", None)
    await database.open()
    await database.migrate(None)
    metrics = Metrics("orders", "orders-1", database, Broker().bus(), StallWatch(), Spans(), stands=True)
    metrics.operations, metrics.events = {"place": Meter()}, {"stock.counted": Meter()}
    metrics.behind = lambda: {"stock": 3}
    try:
        return await metrics.text()
    finally:
        await database.close()


async def test_the_page_has_every_metric_of_a_service_with_its_kind(tmp_path: Path) -> None:
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", await told(tmp_path), re.MULTILINE))
    documented: dict[str, str] = {}
    for row in rows(PAGE, "## A service"):
        found, of = names(row[0]), row[1].split(", ")
        documented |= dict(zip(found, of * len(found) if len(of) == 1 else of, strict=False))
    assert documented == kinds


async def test_what_is_told_can_be_read(tmp_path: Path) -> None:
    families = {one.name: one for one in text_string_to_metric_families(await told(tmp_path))}

    (behind,) = families["atoll_consumer_behind"].samples
    assert (behind.value, behind.labels) == (3, {"source": "stock", "service": "orders", "replica": "orders-1"})


async def test_before_its_database_is_open_a_service_tells_the_rest(tmp_path: Path) -> None:
    database = open_database(f"sqlite://{tmp_path}/orders.sqlite", None)

    said = await Metrics("orders", "orders-1", database, None, StallWatch(), Spans()).text()

    assert "atoll_cpu_seconds_total" in said
    assert "atoll_database_up" not in said


def test_a_label_may_hold_anything() -> None:
    odd = 'a "quoted"\nline \\ end'
    said = text([Family("x", "gauge", "odd", [Sample(1, {"what": odd})])], {})

    (family,) = text_string_to_metric_families(said)
    assert family.samples[0].labels == {"what": odd}


def test_a_histogram_counts_what_took_as_long_as_a_bound_below_it() -> None:
    meter = Meter()
    for seconds in (0.0005, 0.001, 0.3, 99.0):
        meter.count(200, seconds)

    found = {(one.suffix, one.labels.get("le", "")): one.value for one in meter.times({})}

    assert found["_bucket", "0.001"] == 2
    assert found["_bucket", "0.5"] == 3
    assert (found["_bucket", "10.0"], found["_bucket", "+Inf"], found["_count", ""]) == (3, 4, 4)
    assert abs(found["_sum", ""] - 99.3015) < 1e-9
    assert [(one.value, one.labels) for one in meter.outcomes({}, "status")] == [(4, {"status": "200"})]
