"""An OTLP collector: takes what is POSTed to /v1/traces, protobuf or JSON, and keeps the spans."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = ("", "internal", "server", "client", "producer", "consumer")


@dataclass(frozen=True)
class Seen:
    """One span as a backend would show it. `parent` is a span's id, "" for a root."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    failed: bool


@dataclass
class Collector:
    url: str
    spans: list[Seen] = field(default_factory=list)
    types: set[str] = field(default_factory=set)

    def of(self, trace_id: str) -> list[Seen]:
        return [span for span in self.spans if span.trace_id == trace_id]


@contextmanager
def collector(port: int = 0) -> Iterator[Collector]:
    """One that listens."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path == "/v1/traces", self.path
            media = self.headers["content-type"]
            found.spans += _spans(media, self._body())
            found.types.add(media)
            self.send_response(200)
            self.send_header("content-type", media)
            self.send_header("content-length", "0")
            self.end_headers()

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(self.headers["content-length"]))
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    found = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _spans(media: str, body: bytes) -> list[Seen]:
    request = ExportTraceServiceRequest()
    if media == "application/json":
        json_format.Parse(_with_base64_ids(body), request)
    else:
        request.ParseFromString(body)
    found = []
    for one in request.resource_spans:
        service = _plain(one.resource.attributes).get("service.name", "")
        for span in (span for scope in one.scope_spans for span in scope.spans):
            found.append(
                Seen(
                    service=service,
                    name=span.name,
                    kind=KINDS[span.kind],
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    attributes=_plain(span.attributes),
                    failed=span.status.code == 2,
                )
            )
    return found


def _with_base64_ids(body: bytes) -> str:
    """OTLP/JSON writes ids in hex where protobuf's own JSON has base64: the one difference."""
    import base64
    import json

    def mended(node: Any) -> Any:
        if isinstance(node, list):
            return [mended(item) for item in node]
        if not isinstance(node, dict):
            return node
        ids = ("traceId", "spanId", "parentSpanId")
        return {
            key: base64.b64encode(bytes.fromhex(value)).decode() if key in ids else mended(value) for key, value in node.items()
        }

    return json.dumps(mended(json.loads(body)))


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
