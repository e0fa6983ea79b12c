"""Logging is the standard library's: text on a terminal, one JSON object a line otherwise, each with the ids of its call."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from atoll.service import context

__all__ = ["JsonFormatter", "TextFormatter", "configure"]

_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def configure(service: str, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Sets up the root logger. Whatever handlers it had are replaced."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if stream.isatty() else JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


class TextFormatter(logging.Formatter):
    """For people: time, level, logger, message, and the call's short ids at the end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        ids = " ".join(f"{name.removesuffix('_id')}={value[:8]}" for name, value in _ids().items())
        return super().formatMessage(record) + (f"  [{ids}]" if ids else "")


class JsonFormatter(logging.Formatter):
    """For machines. What a caller passes as `extra=` stands beside the rest."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **_ids(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _PLAIN}
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        if record.stack_info:
            line["stack"] = record.stack_info
        return msgspec.json.encode(line, enc_hook=str).decode()


def _ids() -> dict[str, str]:
    trace = context.current()
    if trace is context.NOWHERE:
        return {}
    ids = {"request_id": trace.request_id, "trace_id": trace.traceparent[3:35], "event_id": trace.event_id}
    return {name: value for name, value in ids.items() if value}
