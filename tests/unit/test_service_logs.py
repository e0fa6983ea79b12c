"""Logs: text for people, JSON for machines, both with the ids of the call; and the trace they come from."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from atoll.service import context
from atoll.service.logs import JsonFormatter, TextFormatter, configure

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
INCOMING = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


@pytest.fixture
def in_a_request() -> Iterator[None]:
    token = context.enter(context.Trace("request-7", INCOMING))
    yield
    context.leave(token)


def record(message: str = "hello", **extra: object) -> logging.LogRecord:
    return logging.getLogger("shop").makeRecord("shop", logging.INFO, "f", 1, message, (), None, extra=extra)


@pytest.mark.usefixtures("in_a_request")
def test_a_json_line_carries_service_and_call() -> None:
    line = json.loads(JsonFormatter("orders").format(record(sku="tea", amount=3)))

    assert {name: line[name] for name in ("level", "service", "logger", "message", "request_id", "trace_id")} == {
        "level": "info",
        "service": "orders",
        "logger": "shop",
        "message": "hello",
        "request_id": "request-7",
        "trace_id": TRACE_ID,
    }
    assert (line["sku"], line["amount"]) == ("tea", 3)


def test_a_json_line_has_the_whole_exception_and_stays_one_line() -> None:
    try:
        raise RuntimeError("broken\nin two lines")
    except RuntimeError:
        failed = logging.getLogger("shop").makeRecord("shop", logging.ERROR, "f", 1, "failed", (), sys.exc_info())

    text = JsonFormatter("orders").format(failed)

    assert "\n" not in text
    assert "RuntimeError: broken\nin two lines" in json.loads(text)["exception"]


def test_an_event_is_known_by_its_id() -> None:
    token = context.enter(context.Trace(parent=INCOMING, event_id="0190-e1"))
    try:
        line = json.loads(JsonFormatter("orders").format(record()))
    finally:
        context.leave(token)

    assert (line["event_id"], line["trace_id"], "request_id" in line) == ("0190-e1", TRACE_ID, False)


@pytest.mark.usefixtures("in_a_request")
def test_text_names_the_call_in_brief() -> None:
    assert TextFormatter().format(record()).endswith("INFO    shop: hello  [request=request- trace=4bf92f35]")


def test_outside_of_a_call_there_are_no_ids() -> None:
    assert TextFormatter().format(record()).endswith("shop: hello")


def test_configuring_chooses_json_where_nobody_watches() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        configure("orders", stream)
        logging.getLogger("shop").info("hello %s", "world")
    finally:
        root.handlers[:] = before
        root.setLevel(level)

    assert json.loads(stream.getvalue())["message"] == "hello world"


def test_a_call_is_one_span_of_the_trace_that_it_came_in() -> None:
    trace = context.Trace(parent=INCOMING)

    assert trace.traceparent == trace.traceparent
    assert trace.traceparent[:35] == INCOMING[:35]
    assert trace.traceparent[36:52] != INCOMING[36:52]


@pytest.mark.parametrize(
    "broken", ["", "x", INCOMING[:-1], "00-" + "0" * 32 + "-00f067aa0ba902b7-01", INCOMING.upper(), "ff" + INCOMING[2:]]
)
def test_a_broken_traceparent_begins_a_new_trace(broken: str) -> None:
    fresh = context.child_of(broken)

    assert context.child_of(fresh)[3:35] == fresh[3:35]
    assert TRACE_ID not in fresh.lower()


@pytest.mark.parametrize("hostile", ["", "a b", "x" * 200, 'x"\n{"level":"error"}'])
def test_a_request_id_that_could_forge_a_log_line_is_replaced(hostile: str) -> None:
    trace = context.Trace(hostile)

    assert len(trace.request_id) == 32
    assert trace.request_id == trace.request_id


def test_a_new_trace_is_named_by_the_request_id_of_the_gateway() -> None:
    assert context.Trace("9f92eef1-852f-4557-b391-392405df8a70").traceparent[3:35] == "9f92eef1852f4557b391392405df8a70"
    assert context.Trace("9f92eef1-852f-4557-b391-392405df8a70", INCOMING).traceparent[3:35] == INCOMING[3:35]
    assert re.fullmatch("[0-9a-f]{32}", context.Trace("request-7").traceparent[3:35])
