"""Traces from the gateway to the last consumer, as a collector gets them, in a whole running system."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.support.collector import Collector, Seen, collector
from tests.support.ports import free_port
from tests.support.system import RunningSystem, system
from tests.support.waiting import until_sync


@dataclass
class Recorded:
    """A system whose every trace is recorded, and its collector."""

    trail: RunningSystem
    collector: Collector


def telemetry(trail: RunningSystem, endpoint: str, sampling: float) -> None:
    with (trail.folder / "atoll.toml").open("a") as manifest:
        manifest.write(f'\n[telemetry]\notlp_endpoint = "{endpoint}"\nsampling = {sampling}\n')


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    with collector() as found, system("trail", tmp_path_factory.mktemp("telemetry") / "trail") as trail:
        telemetry(trail, found.url, 1)
        trail.up()
        yield Recorded(trail, found)


def take(trail: RunningSystem, name: str, **headers: str) -> httpx.Response:
    with trail.client() as http:
        answer = http.post("/first/steps", json={"name": name}, headers=headers)
    assert answer.status_code == 204, answer.text
    return answer


def whole(recorded: Recorded, trace_id: str, count: int) -> list[Seen]:
    """All spans of a trace, once there are as many."""

    def enough() -> list[Seen]:
        found = recorded.collector.of(trace_id)
        return found if len(found) >= count else []

    return until_sync(enough, 15, f"{count} spans of {trace_id}; there are {recorded.collector.of(trace_id)}")


def test_one_trace_goes_from_the_gateway_to_the_last_consumer(recorded: Recorded) -> None:
    trace_id, client = secrets.token_hex(16), secrets.token_hex(8)
    take(recorded.trail, "recorded", traceparent=f"00-{trace_id}-{client}-00")

    spans = whole(recorded, trace_id, 10)

    by_name = {(span.service, span.name): span for span in spans}
    parents = {span.span_id: (span.service, span.name) for span in spans}
    tree = {place: parents.get(span.parent, span.parent) for place, span in by_name.items()}
    request, seen = ("first", "POST /first/steps"), ("last", "process first.step_taken")
    sent = ("gateway", "POST first.take to first")
    assert tree == {
        ("gateway", "POST first.take"): client,
        sent: ("gateway", "POST first.take"),
        request: sent,
        ("first", "transaction first"): request,
        ("first", "send first.step_taken"): request,
        seen: request,
        ("last", "commit last"): seen,
        ("last", "send last.step_seen"): seen,
        ("first", "process last.step_seen"): seen,
        ("first", "commit first"): ("first", "process last.step_seen"),
    }
    assert all(span.start_ns <= span.end_ns for span in spans)
    assert not any(span.failed for span in spans)


def test_spans_have_the_names_of_the_semantic_conventions(recorded: Recorded) -> None:
    trace_id = secrets.token_hex(16)
    request_id = take(recorded.trail, "named", traceparent=f"00-{trace_id}-{'1' * 16}-00").headers["x-request-id"]

    by_name = {(span.service, span.name): span for span in whole(recorded, trace_id, 10)}

    server = by_name["first", "POST /first/steps"]
    assert server.kind == "server"
    assert server.attributes["http.request.method"] == "POST"
    assert server.attributes["http.route"] == "/first/steps"
    assert server.attributes["http.response.status_code"] == 204
    assert server.attributes["atoll.request_id"] == request_id
    transaction = by_name["first", "transaction first"]
    assert (transaction.kind, transaction.attributes["db.system.name"]) == ("client", "sqlite")
    send, process = by_name["first", "send first.step_taken"], by_name["last", "process first.step_taken"]
    assert (send.kind, process.kind) == ("producer", "consumer")
    assert send.attributes["messaging.message.id"] == process.attributes["messaging.message.id"]
    assert process.attributes["messaging.destination.name"] == "first.step_taken"
    assert process.attributes["messaging.consumer.group.name"] == "last"
    assert by_name["gateway", "POST first.take"].attributes["atoll.operation"] == "first.take"
    assert recorded.collector.types == {"application/json", "application/x-protobuf"}


def test_a_trace_that_began_at_the_gateway_is_the_one_in_its_log(recorded: Recorded) -> None:
    request_id = take(recorded.trail, "begun").headers["x-request-id"]
    log = recorded.trail.folder / ".atoll" / "gateway" / "access.log"

    (line,) = until_sync(
        lambda: [line for line in map(json.loads, log.read_text().splitlines()) if line["request_id"] == request_id], 20
    )

    roots = [span for span in whole(recorded, line["trace_id"], 10) if not span.parent]
    assert [span.name for span in roots] == ["POST first.take"]


def test_a_request_that_nobody_takes_has_one_span_that_says_so(recorded: Recorded) -> None:
    trace_id = secrets.token_hex(16)
    with recorded.trail.client() as http:
        assert http.get("/nowhere", headers={"traceparent": f"00-{trace_id}-{'1' * 16}-00"}).status_code == 404

    (span,) = whole(recorded, trace_id, 1)

    assert (span.service, span.attributes["http.status_code"]) == ("gateway", "404")


def test_nothing_is_recorded_at_sampling_0_whatever_a_client_sends_and_a_dead_collector_harms_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    port = free_port()
    trace_id = secrets.token_hex(16)
    with system("trail", tmp_path_factory.mktemp("unsampled") / "trail") as trail:
        telemetry(trail, f"http://127.0.0.1:{port}", 0)
        trail.up()
        for number in range(20):
            forced = {"x-client-trace-id": "1", "x-envoy-force-trace": "1", "traceparent": f"00-{trace_id}-{'1' * 16}-01"}
            take(trail, f"forced {number}", **forced)
        with trail.client() as http:
            until_sync(lambda: len(http.get("/first/steps").json()) == 20, 20, "every event was handled")
            flags = {step["traceparent"][-2:] for step in http.get("/first/steps").json()}
        assert flags == {"00"}, "the gateway's decision is what services see, not the client's"
        with collector(port) as late:
            trail.down()
        assert late.of(trace_id) == []


def test_the_environment_names_the_collector_too_and_what_waited_for_it_comes_when_it_is_there(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    port, trace_id = free_port(), secrets.token_hex(16)
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    with system("trail", tmp_path_factory.mktemp("late") / "trail", environment=variables) as trail:
        with (trail.folder / "atoll.toml").open("a") as manifest:
            manifest.write("\n[telemetry]\nsampling = 1\n")
        trail.up()
        take(trail, "early", traceparent=f"00-{trace_id}-{'1' * 16}-00")
        log = trail.folder / ".atoll" / "logs" / "first-1.log"
        until_sync(lambda: "spans can't be sent and wait" in log.read_text(), 20, "the first try has failed")
        with collector(port) as late:
            until_sync(lambda: {"first", "last"} <= {span.service for span in late.of(trace_id)}, 40, "spans of both")
