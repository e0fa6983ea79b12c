"""Spans as OTLP/JSON (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from atoll.telemetry.spans import Span

__all__ = ["PATH", "encode"]

PATH = "/v1/traces"
_ERROR = 2


def encode(spans: Sequence[Span], resource: Mapping[str, str]) -> bytes:
    """The body of one POST to `PATH`. Ids are hex and 64-bit numbers are text, as OTLP wants them in JSON."""
    scope = {"name": "atoll", "version": version("atoll")}
    found = {"scope": scope, "spans": [_span(span) for span in spans]}
    return msgspec.json.encode({"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [found]}]})


def _span(span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {
        "traceId": span.parent.trace_id,
        "spanId": span.span_id,
        "parentSpanId": span.parent.span_id,
        "flags": 1,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.attributes),
    }
    if span.error:
        found["status"] = {"code": _ERROR, "message": span.error}
    return found


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"stringValue": str(value)}
