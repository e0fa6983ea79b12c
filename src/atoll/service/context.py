"""What one call is known by, for logs, errors and the events it publishes. W3C Trace Context level 1, one hop.

One context variable holds it all, so that a call pays for one assignment. Span ids are made when somebody asks.
"""

from __future__ import annotations

import os
import re
from contextvars import ContextVar, Token

__all__ = ["NOWHERE", "Trace", "child_of", "current", "enter", "leave"]

_TRACEPARENT = re.compile(r"^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?$")
_TRACE_ID = re.compile(r"^(?!0{32})[0-9a-f]{32}$")
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:@/+=-]{1,128}$")


class Trace:
    """The request or event in hand. `traceparent` is this call's own span, a child of what came in."""

    __slots__ = ("_parent", "_request_id", "_traceparent", "event_id")

    def __init__(self, request_id: str = "", parent: str = "", event_id: str = "") -> None:
        self._request_id = request_id
        self._parent = parent
        self._traceparent = ""
        self.event_id = event_id

    @property
    def parent(self) -> str:
        """The traceparent as it came in, "" when none did."""
        return self._parent

    @property
    def traceparent(self) -> str:
        if not self._traceparent:
            self._traceparent = child_of(self._parent, self._request_id)
        return self._traceparent

    @property
    def request_id(self) -> str:
        """As the gateway gave it; made here when nobody did or it could not stand in a log line. Events have none."""
        if not _REQUEST_ID.match(self._request_id) and not self.event_id:
            self._request_id = os.urandom(16).hex()
        return self._request_id


NOWHERE = Trace(event_id="-")
"""Outside of any call."""

_current: ContextVar[Trace] = ContextVar("atoll_trace", default=NOWHERE)


def current() -> Trace:
    """The call in hand, NOWHERE outside of one."""
    return _current.get()


def enter(trace: Trace) -> Token[Trace]:
    return _current.set(trace)


def leave(token: Token[Trace]) -> None:
    _current.reset(token)


def child_of(parent: str, request_id: str = "") -> str:
    """A new span in the trace of `parent`. When that is missing or not a traceparent, a new trace, named by the gateway's
    `request_id` (a UUID) where there is one, so that its log leads to the trace. Nobody records a trace that begins here: which
    ones are, the gateway says.
    """
    span = os.urandom(8).hex()
    if found := _TRACEPARENT.match(parent):
        return f"00-{found[1]}-{span}-{found[2]}"
    named = request_id.replace("-", "").lower()
    return f"00-{named if _TRACE_ID.match(named) else os.urandom(16).hex()}-{span}-00"
