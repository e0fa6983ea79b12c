"""Spans on their way out: which are made, how many wait, what happens when nobody takes them."""

from __future__ import annotations

import asyncio
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from atoll.telemetry.collector import collector_at
from atoll.telemetry.exporter import Exporter
from atoll.telemetry.spans import CLIENT, Parent, Span, Spans, new_span_id
from tests.support.collector import collector
from tests.support.ports import free_port

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = Parent(TRACE, SPAN)


def span(name: str = "transaction orders", **attributes: Any) -> Span:
    return Span(name, CLIENT, PARENT, new_span_id(), 1, 2, attributes, attributes.pop("error", ""))


@pytest.mark.parametrize(("flags", "recorded"), [("00", False), ("01", True), ("03", True), ("02", False), ("xx", False)])
def test_a_trace_is_recorded_when_its_flag_says_so(flags: str, recorded: bool) -> None:
    assert (Parent.of(f"00-{TRACE}-{SPAN}-{flags}") is not None) is recorded


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{TRACE[:-1]}-{SPAN}-01"])
def test_what_is_no_traceparent_is_not_recorded(traceparent: str) -> None:
    assert Parent.of(traceparent) is None


def test_spans_that_find_no_room_are_dropped_and_counted() -> None:
    spans = Spans(capacity=2)
    for _ in range(5):
        spans.record(span())

    assert (len(spans), spans.recorded, spans.dropped) == (2, 2, 3)


@pytest.mark.parametrize(
    ("endpoint", "place"),
    [
        ("http://collector", ("collector", 4318)),
        ("http://collector.monitoring:14318", ("collector.monitoring", 14318)),
        ("http://[::1]", ("::1", 4318)),
    ],
)
def test_a_collector_without_a_port_is_where_collectors_listen(endpoint: str, place: tuple[str, int]) -> None:
    assert collector_at(endpoint) == place


async def exported(spans: Spans, url: str) -> None:
    exporter = Exporter(spans, url, {"service.name": "orders"})
    exporter.stop()
    await exporter.run()


async def test_a_span_arrives_as_it_was_made() -> None:
    spans = Spans()
    spans.record(span(count=3, name_of="mug", good=True))
    spans.record(span("late", error="TimeoutError: too late"))

    with collector() as found:
        await exported(spans, found.url)

    first, late = found.spans
    assert (first.service, first.name, first.kind) == ("orders", "transaction orders", "client")
    assert (first.trace_id, first.parent, first.failed) == (TRACE, SPAN, False)
    assert first.attributes == {"count": 3, "name_of": "mug", "good": True}
    assert (late.name, late.failed) == ("late", True)


async def test_many_spans_go_in_several_batches() -> None:
    spans = Spans()
    for number in range(600):
        spans.record(span(number=number))

    with collector() as found:
        await exported(spans, found.url)

    assert [one.attributes["number"] for one in found.spans] == list(range(600))


async def test_a_collector_that_is_not_there_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    spans = Spans()
    spans.record(span())

    await exported(spans, f"http://127.0.0.1:{free_port()}")

    assert "1 spans are lost" in caplog.text


async def test_what_a_collector_refuses_is_dropped_and_counted() -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_error(400)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = Thread(target=server.serve_forever)
    thread.start()
    spans = Spans()
    spans.record(span())
    try:
        async with asyncio.timeout(20):
            await exported(spans, f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

    assert (len(spans), spans.dropped) == (0, 1)
