"""Spans of one service process: requests, transactions, events sent and handled. Made only in traces that the gateway chose.

Names and attributes are those of OpenTelemetry's semantic conventions. A request's span has the id that its events and log
lines name already (`context.Trace.traceparent`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.delivery.envelope import decode
from atoll.service import context
from atoll.telemetry.spans import CLIENT, CONSUMER, PRODUCER, SERVER, Parent, Span, Spans, new_span_id, now_ns

if TYPE_CHECKING:
    from atoll.database.ports import Database, OutboxRow
    from atoll.delivery.handling import Delivery
    from atoll.service.operations import Operation

__all__ = ["TracedDatabase", "Tracing"]

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
# Batches that were rolled back for good (a lost lease) leave their events here; more than this is nobody's batch any more.
_OPEN_MOST = 1024


class _Handling(msgspec.Struct):
    """An event whose handler runs, or has run and waits for the commit."""

    parent: Parent
    span_id: str
    delivery: Delivery
    start_ns: int
    handled_ns: int = 0


class Tracing:
    """Also what delivery tells of commits, failures and publishing: its `Watch`."""

    def __init__(self, spans: Spans, service: str, database: str | None) -> None:
        self._spans = spans
        self._service = service
        self._system = database
        self._handling: dict[str, _Handling] = {}

    # requests

    def request(self, parent: Parent, scope: MutableMapping[str, Any], send: Send) -> _Request:
        """A server span that begins now."""
        return _Request(self._spans, parent, scope, send)

    # transactions

    @asynccontextmanager
    async def transaction(self, parent: Parent, name: str, inner: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
        start_ns, error = now_ns(), ""
        try:
            async with inner as tx:
                yield tx
        except BaseException as failure:
            error = _one_line(failure)
            raise
        finally:
            self._record_database(parent, name, start_ns, error)

    def _record_database(self, parent: Parent, name: str, start_ns: int, error: str = "") -> None:
        attributes = {"db.system.name": self._system, "db.namespace": self._service, "db.operation.name": name}
        self._record(f"{name} {self._service}", CLIENT, (parent, new_span_id()), start_ns, attributes, error)

    # events

    def handling(self, delivery: Delivery, trace: context.Trace) -> None:
        """Its handler begins."""
        parent = Parent.of(delivery.traceparent)
        if parent is None:
            return
        if len(self._handling) >= _OPEN_MOST:
            self._handling.clear()
        self._handling[delivery.id] = _Handling(parent, trace.traceparent[36:52], delivery, now_ns())

    def handled(self, delivery: Delivery) -> None:
        """Its handler has returned; what it did is not committed yet."""
        if open_ := self._handling.get(delivery.id):
            open_.handled_ns = now_ns()

    def committed(self, ids: Sequence[str]) -> None:
        for id in ids if self._handling else ():
            if open_ := self._handling.pop(id, None):
                below = Parent(open_.parent.trace_id, open_.span_id)
                self._record_database(below, "commit", open_.handled_ns or open_.start_ns)
                self._record_handling(open_)

    def failed(self, id: str, error: Exception) -> None:
        if open_ := self._handling.pop(id, None):
            self._record_handling(open_, _one_line(error))

    def _record_handling(self, open_: _Handling, error: str = "") -> None:
        delivery = open_.delivery
        attributes = {
            **_message("process", delivery.type, delivery.id),
            "messaging.consumer.group.name": self._service,
            "atoll.attempt": delivery.attempt,
            "atoll.key": delivery.key,
        }
        self._record(f"process {delivery.type}", CONSUMER, (open_.parent, open_.span_id), open_.start_ns, attributes, error)

    def published(self, rows: Sequence[OutboxRow], start_ns: int) -> None:
        """The bus has acknowledged them."""
        for row in rows:
            envelope = decode(row.headers)
            if parent := Parent.of(envelope.traceparent):
                attributes = _message("send", envelope.type, envelope.id)
                self._record(f"send {envelope.type}", PRODUCER, (parent, new_span_id()), start_ns, attributes)

    def _record(
        self, name: str, kind: int, place: tuple[Parent, str], start_ns: int, attributes: dict[str, Any], error: str = ""
    ) -> None:
        parent, span_id = place
        self._spans.record(Span(name, kind, parent, span_id, start_ns, now_ns(), attributes, error))


class _Request:
    """One open server span."""

    def __init__(self, spans: Spans, parent: Parent, scope: MutableMapping[str, Any], send: Send) -> None:
        self._spans = spans
        self._parent = parent
        self._scope = scope
        self._send = send
        self._start_ns = now_ns()
        self._status = 0

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Passes on what is answered, and notes the status."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
        await self._send(message)

    def end(self, operation: Operation | None) -> None:
        trace = context.current()
        method = self._scope["method"]
        attributes: dict[str, Any] = {
            "http.request.method": method,
            "url.path": self._scope["path"],
            "url.scheme": self._scope.get("scheme", "http"),
            "http.response.status_code": self._status,
            "atoll.request_id": trace.request_id,
        }
        if operation is not None:
            attributes |= {"http.route": operation.path, "atoll.operation": operation.id}
        name = f"{method} {operation.path}" if operation else method
        error = f"answered {self._status}" if self._status >= 500 or not self._status else ""
        span_id = trace.traceparent[36:52]
        self._spans.record(Span(name, SERVER, self._parent, span_id, self._start_ns, now_ns(), attributes, error))


class TracedDatabase:
    """A database whose transactions are spans of the request in hand, when its trace is recorded."""

    def __init__(self, database: Database, tracing: Tracing) -> None:
        self._database = database
        self._tracing = tracing

    def transaction(self, **how: Any) -> AbstractAsyncContextManager[Any]:
        return self._span("transaction", self._database.transaction(**how))

    def reader(self) -> AbstractAsyncContextManager[Any]:
        return self._span("read", self._database.reader())

    def _span(self, name: str, inner: AbstractAsyncContextManager[Any]) -> AbstractAsyncContextManager[Any]:
        trace = context.current()
        if trace.event_id or Parent.of(trace.parent) is None:  # an event's transaction is its consumer's
            return inner
        below = Parent.of(trace.traceparent)
        return inner if below is None else self._tracing.transaction(below, name, inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def _message(operation: str, type: str, id: str) -> dict[str, Any]:
    return {
        "messaging.system": "nats",
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "messaging.destination.name": type,
        "messaging.message.id": id,
    }


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
