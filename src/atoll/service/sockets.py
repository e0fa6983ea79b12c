"""WebSockets: the opening is checked and bound like any request, then handler and client talk.

What fails before the handler has accepted is answered as it is to a request. Afterwards it is a close code: 4000 and the
status of a Mistake (4404), 1013 for an outage, 1011 for all else, which is logged. 1009 is a message above the limit; 1012
comes from the server when its process stops.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any, Literal, Protocol

from starlette import websockets
from starlette.websockets import WebSocket, WebSocketDisconnect

from atoll.errors import Bug
from atoll.service.answers import Receive, Send, answer_of, send_answer
from atoll.service.binding import INJECTED, Binder
from atoll.service.callers import Verify, caller, without_token
from atoll.service.calls import Call
from atoll.service.injection import Injector
from atoll.service.open_calls import ENDED, OpenCalls
from atoll.service.operations import Operation
from atoll.service.problems import Problem, problem_of
from atoll.telemetry.metrics import Meter

__all__ = ["SocketEndpoint"]

# RFC 6455 §7.4.1 and IANA's registry of close codes.
_WRONG_KIND, _TOO_BIG, _INTERNAL, _TRY_LATER = 1003, 1009, 1011, 1013
# What a handler hears that goes on after it has closed its socket; older versions of Starlette have no name for it.
_NOT_CONNECTED: type[Exception] = getattr(websockets, "WebSocketDisconnected", RuntimeError)
_STATUSES = range(4400, 4500)


class Kit(Protocol):
    """What all operations of one running service share, as far as a WebSocket needs it."""

    verify: Verify
    injector: Injector
    calls: OpenCalls


class SocketEndpoint:
    """One operation that takes WebSockets, ready to run. It counts openings, not how long a socket was open."""

    def __init__(self, operation: Operation, kit: Kit) -> None:
        self.operation = operation
        self.meter = Meter()
        self._verify = kit.verify
        self._injector = kit.injector
        self._calls = kit.calls
        self._bind = Binder(operation)
        self._injected = tuple(one for one in operation.arguments if one.source in INJECTED)

    async def __call__(self, call: Call, send: Send) -> None:
        line = _Line(call, send, self.operation.message_limit_bytes, self.meter)
        try:
            await self._talk(call, line)
        except Exception as error:
            await line.fail(error)
        else:
            await line.end()
        finally:
            await line.closed()

    async def _talk(self, call: Call, line: _Line) -> None:
        call.principal = caller(self.operation, call.scope, self._verify)
        values = self._bind(call)
        call.socket = WebSocket(without_token(call.scope), line.receive, line.send)
        try:
            with self._calls.open(call.principal, call.scope, line.revoke):
                await self._injector.fill(values, self._injected, call)
                await self.operation.handler(**values)
        except BaseException as error:
            await call.close(error)
            raise
        await call.close()


class _Line:
    """What goes between client and handler: it knows how far they are, and lets no message by that is too large."""

    def __init__(self, call: Call, send: Send, limit_bytes: int, meter: Meter) -> None:
        self._scope = call.scope
        self._receive: Receive = call.receive
        self._send = send
        self._limit_bytes = limit_bytes
        self._meter = meter
        self._began = perf_counter()
        self._stage: Literal["opening", "open", "closed"] = "opening"
        self._revoking: asyncio.Task[None] | None = None

    async def receive(self) -> Any:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._stage = "closed"
        elif message["type"] == "websocket.receive" and _size_bytes(message) > self._limit_bytes:
            reason = f"a message is larger than {self._limit_bytes:,} bytes"
            await self._close(_TOO_BIG, reason)
            return {"type": "websocket.disconnect", "code": _TOO_BIG, "reason": reason}
        return _Message(message)

    async def send(self, message: Any) -> None:
        """Raises OSError when nobody hears it, which Starlette makes a WebSocketDisconnect."""
        kind = message["type"]
        if self._stage == "closed":
            raise ConnectionError("the socket is closed")
        if kind == "websocket.close" and self._stage == "opening":
            await self._refuse(_refusal(message.get("code", 1000), message.get("reason") or ""))
            return
        if kind == "websocket.accept":
            self._opened("open", 101)
        elif kind == "websocket.http.response.start":
            self._meter.count(message["status"], perf_counter() - self._began)
        elif kind == "websocket.close" or (kind == "websocket.http.response.body" and not message.get("more_body")):
            self._stage = "closed"
        await self._send(message)

    async def fail(self, error: Exception) -> None:
        """Told by the best means that are left; that nobody is there any more is told to nobody."""
        if _is_over(error, self._stage == "closed"):
            return
        if isinstance(error, _WrongKind) and self._stage == "open":
            await self._close(_WRONG_KIND, str(error))
            return
        problem = problem_of(error)
        if self._stage == "opening":
            await self._refuse(problem)
        elif self._stage == "open":
            await self._close(_code(problem.status), problem.code)

    def revoke(self) -> None:
        """The caller may not go on."""
        self._revoking = asyncio.create_task(self.fail(ENDED))

    async def closed(self) -> None:
        """A close that was begun is sent: behind what a handler that never listens has written, it has to wait."""
        if self._revoking is not None:
            await asyncio.wait({self._revoking})

    async def end(self) -> None:
        """The handler has returned."""
        if self._stage == "opening":
            await self.fail(Bug("the handler has neither accepted nor closed its WebSocket"))
        elif self._stage == "open":
            await self._close(1000, "")

    async def _close(self, code: int, reason: str) -> None:
        self._stage = "closed"
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _refuse(self, problem: Problem) -> None:
        self._opened("closed", problem.status)
        await send_answer(self._scope, self._send, answer_of(problem))

    def _opened(self, stage: Literal["open", "closed"], status: int) -> None:
        self._stage = stage
        self._meter.count(status, perf_counter() - self._began)


class _WrongKind(Exception):
    """The client has sent text where bytes are read, or bytes where text is."""


class _Message(dict[str, Any]):
    """Starlette takes for granted that there is what it reads."""

    def __missing__(self, name: str) -> Any:
        raise _WrongKind(f"this socket takes {name} only")


def _refusal(code: int, reason: str) -> Problem:
    """A handler that closes instead of accepting may say which status it means: 4401 is 401; without one it is 403."""
    status = code - 4000 if code in _STATUSES else 403
    return Problem(status, "forbidden" if status == 403 else "refused", reason)


def _code(status: int) -> int:
    if status < 500:
        return 4000 + status
    return _TRY_LATER if status == 503 else _INTERNAL


def _size_bytes(message: Any) -> int:
    text = message.get("text")
    return len(text.encode()) if text is not None else len(message.get("bytes") or b"")


def _is_over(error: Exception, closed: bool) -> bool:
    """Reading and writing at once, in a task group, a handler may hear it several times."""
    if isinstance(error, ExceptionGroup):
        return all(_is_over(one, closed) for one in error.exceptions)
    return isinstance(error, WebSocketDisconnect) or (closed and isinstance(error, _NOT_CONNECTED))
