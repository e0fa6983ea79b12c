"""Spans that are over, and the bounded place where they wait to be sent. Nothing here does I/O."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["CLIENT", "CONSUMER", "PRODUCER", "SERVER", "Parent", "Span", "Spans"]

# Kinds as OTLP numbers them.
SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5
_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class Parent(msgspec.Struct, frozen=True):
    """What a span hangs below: a traceparent whose trace is recorded."""

    trace_id: str
    span_id: str

    @classmethod
    def of(cls, traceparent: str) -> Parent | None:
        """None for a trace that nobody records, which most are."""
        if not traceparent or traceparent.endswith("-00"):
            return None
        found = _TRACEPARENT.match(traceparent)
        return cls(found[1], found[2]) if found and int(found[3], 16) & 1 else None


class Span(msgspec.Struct, frozen=True):
    """One finished piece of work. Times are epoch nanoseconds; `error` is one line, "" for success."""

    name: str
    kind: int
    parent: Parent
    span_id: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    error: str = ""


class Spans:
    """At most `capacity` spans that wait. One that finds no room is dropped and counted."""

    def __init__(self, capacity: int = 2048) -> None:
        self._waiting: deque[Span] = deque()
        self._capacity = capacity
        self.dropped = 0
        self.recorded = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def record(self, span: Span) -> None:
        if len(self._waiting) >= self._capacity:
            self.dropped += 1
            return
        self.recorded += 1
        self._waiting.append(span)

    def take(self, most: int) -> list[Span]:
        """The oldest; they are the caller's now."""
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


def new_span_id() -> str:
    return os.urandom(8).hex()


def now_ns() -> int:
    return time.time_ns()
