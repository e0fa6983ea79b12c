"""What Prometheus finds of a running system, read with its own parser."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.system import RunningSystem, running
from tests.support.waiting import until_sync

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with running("pair", tmp_path_factory.mktemp("metrics") / "pair") as pair:
        yield pair


def targets(pair: RunningSystem) -> dict[str, dict[str, Any]]:
    """By replica, or "gateway": as Prometheus would read the file."""
    found = json.loads((pair.folder / ".atoll" / "prometheus-targets.json").read_text())
    return {one["labels"].get("replica", one["labels"]["service"]): one for one in found}


def scraped(pair: RunningSystem, name: str) -> Samples:
    """All samples of one target, scraped as Prometheus would."""
    target = targets(pair)[name]
    labels = target["labels"]
    parameters = {key.removeprefix("__param_"): value for key, value in labels.items() if key.startswith("__param_")}
    answer = httpx.get(f"http://{target['targets'][0]}{labels['__metrics_path__']}", params=parameters, timeout=20)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def until_scraped(pair: RunningSystem, name: str, good: Callable[[Samples], bool]) -> Samples:
    """The target's samples once they are as they should be."""

    def found() -> Samples:
        samples = scraped(pair, name)
        return samples if good(samples) else {}

    return until_sync(found, 20, f"the metrics of {name}")


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all samples of that name with those labels."""
    return sum(value for (found, has), value in samples.items() if found == name and labels.items() <= dict(has).items())


def test_every_replica_and_the_gateway_can_be_found(pair: RunningSystem) -> None:
    assert set(targets(pair)) == {"gateway", "auth-1", "left-1", "middle-1", "right-1"}

    pair.must("scale", "middle=2")
    assert "middle-2" in targets(pair)

    pair.must("scale", "middle=1")
    assert "middle-2" not in targets(pair)
    for name in targets(pair):
        assert scraped(pair, name)


def test_the_gateway_counts_requests_by_operation_and_status(pair: RunningSystem) -> None:
    before = scraped(pair, "gateway")
    with pair.client() as http:
        for _ in range(3):
            http.get("/left/notes")
        http.post("/left/notes", json={"text": "no token"})

    def takes(samples: Samples) -> float:
        return total(samples, "envoy_atoll_duration_ms_count", operation="left.take")

    after = until_scraped(pair, "gateway", lambda found: takes(found) > takes(before))  # Envoy merges histograms now and then

    def more(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert more("envoy_atoll_requests_total", operation="left.notes", status="200") == 3
    assert more("envoy_atoll_requests_total", operation="left.take", status="401") == 1
    assert more("envoy_atoll_duration_ms_count", operation="left.notes") == 3


def test_paths_and_methods_that_clients_make_up_are_one_series(pair: RunningSystem) -> None:
    with pair.client() as http:
        for number in range(30):
            http.get(f"/made/up/{number}?q={number}", headers={"x-request-id": str(number), "user-agent": str(number)})
        before = len(scraped(pair, "gateway"))
        for number in range(30):
            http.request("PATCH", f"/left/{number}-made-up")

    after = until_scraped(pair, "gateway", lambda found: total(found, "envoy_atoll_requests_total", operation="") >= 60)

    assert len(after) <= before + 20, "at most one more histogram and one more status"
    assert not [labels for _, labels in after if "made" in str(labels)]


def test_a_service_counts_requests_events_and_what_waits(pair: RunningSystem) -> None:
    left, right = scraped(pair, "left-1"), scraped(pair, "right-1")
    with pair.client("ann") as http:
        for number in range(4):
            assert http.post("/left/notes", json={"text": str(number)}).status_code == 201
        assert http.post("/left/notes", json={"text": 5}).status_code == 422

    def handled_in(samples: Samples) -> float:
        return total(samples, "atoll_events_total", type="left.note_taken", outcome="handled")

    events = until_scraped(pair, "right-1", lambda found: handled_in(found) - handled_in(right) == 4)
    requests = until_scraped(pair, "left-1", lambda found: total(found, "atoll_outbox_rows") == 0)

    def more(name: str, **labels: str) -> float:
        return total(requests, name, **labels) - total(left, name, **labels)

    assert more("atoll_requests_total", operation="take", status="201") == 4
    assert more("atoll_requests_total", operation="take", status="422") == 1
    assert more("atoll_request_seconds_count", operation="take") == 5
    assert total(requests, "atoll_request_seconds_bucket", operation="take", le="+Inf") == total(
        requests, "atoll_request_seconds_count", operation="take"
    )
    assert total(requests, "atoll_database_up") == 1
    assert total(events, "atoll_consumer_position", source="left") > 0
    assert total(events, "atoll_consumer_behind", source="left") == 0
    assert total(events, "atoll_parked_events") == 0
    assert total(events, "atoll_cpu_seconds_total") > 0
    assert not [value for value in events.values() if math.isnan(value)]
    assert all(dict(labels)["replica"] == "right-1" for _, labels in events)


def test_metrics_are_never_routed_to_clients(pair: RunningSystem) -> None:
    with pair.client() as http:
        for path in ("/health/metrics", "/stats/prometheus", "/metrics", "/left/health/metrics"):
            assert http.get(path).status_code == 404


def test_a_service_without_a_database_says_what_it_has(pair: RunningSystem) -> None:
    names = {name for name, _ in scraped(pair, "middle-1")}

    assert "atoll_requests_total" in names or "atoll_cpu_seconds_total" in names
    assert "atoll_outbox_rows" not in names
