"""Calls that stay open: WebSockets and streams. A token is checked when they are opened; when its session ends, or its key is
withdrawn, they are ended too. That the token expires ends nothing: how long a call may outlive it is the handler's to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from atoll.service.answers import Receive, Scope, Send
from atoll.service.callers import token_of
from atoll.service.principal import Principal
from atoll.tokens.refusals import TokenRefused
from atoll.tokens.verify import Verifier

__all__ = ["ENDED", "OpenCalls", "Opened", "StreamingCall"]

ENDED = TokenRefused("token_revoked", "the session was ended", hint="sign in again")
_CLOSE_CODE = 4401
_log = logging.getLogger("atoll.service")


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """One call: who opened it, with which token, and what ends it."""

    principal: Principal
    token: str
    end: Callable[[], None]


class OpenCalls:
    """Those of one process."""

    def __init__(self) -> None:
        self._by_session: dict[str, set[Opened]] = {}
        self._over: frozenset[str] = frozenset()
        self.ending = False  # the process ends: what is cancelled now, the process has cancelled

    @property
    def count(self) -> int:
        """How many are open."""
        return sum(map(len, self._by_session.values()))

    @contextmanager
    def open(self, principal: Principal | None, scope: Scope, end: Callable[[], None]) -> Iterator[None]:
        """While it is open, `end` is called once its caller may not go on; never for one that needed no token."""
        if principal is None:
            yield
            return
        opened = Opened(principal, token_of(scope) or "", end)
        same = self._by_session.setdefault(principal.session, set())
        same.add(opened)
        if principal.session in self._over:  # since its token was looked at
            end()
        try:
            yield
        finally:
            same.discard(opened)
            if not same:
                self._by_session.pop(principal.session, None)

    def end(self, sessions: frozenset[str]) -> None:
        """Those of all sessions that have ended, however old their tokens are."""
        self._over = sessions
        for session in self._by_session.keys() & sessions:
            self._end(list(self._by_session[session]), "their session was ended")

    def judge(self, verifier: Verifier) -> None:
        """After keys or issuers have changed: those whose token would still be good, and is refused now."""
        now = time.time()
        opened = [one for same in self._by_session.values() for one in same if one.principal.claims.get("exp", 0) > now]
        self._end([one for one in opened if not _is_good(verifier, one.token, now)], "their key is not good any more")

    def _end(self, opened: list[Opened], why: str) -> None:
        for one in opened:
            one.end()
        if opened:
            _log.info("%d open calls of %s are ended: %s", len(opened), opened[0].principal.id, why)

    async def stream(self, principal: Principal | None, call: StreamingCall) -> None:
        """Answers as `call` does; cut in the middle when its caller may not go on. An event stream ends as if it were over,
        anything else without its last byte, so that nobody takes it for whole.
        """
        limit = asyncio.timeout(None)
        began = _Began(call)
        try:
            async with limit:
                with self.open(principal, call.scope, lambda: began.end(limit)):
                    await call.respond(call.scope, call.receive, lambda message: began.send(message, limit))
        except TimeoutError:
            if not limit.expired():
                raise
            if began.events:
                await call.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def talk(self, principal: Principal, call: StreamingCall) -> None:
        """The same for an application's WebSocket, which is closed with 4401."""
        socket = _Socket(call.send)
        try:
            with self.open(principal, call.scope, socket.end):
                await call.respond(call.scope, call.receive, socket.pass_on)
        finally:
            await socket.closed()


@dataclass(frozen=True, slots=True)
class StreamingCall:
    """`respond` is an ASGI application. With `always` it is a stream whatever its media type says."""

    respond: Callable[[Scope, Receive, Send], Awaitable[None]]
    scope: Scope
    receive: Receive
    send: Send
    always: bool = False


class _Began:
    """How far an answer is: one that is no stream is not cut, it will be over soon."""

    def __init__(self, call: StreamingCall) -> None:
        self._call = call
        self._streams = False
        self._ended = False
        self.events = False

    def end(self, limit: asyncio.Timeout) -> None:
        self._ended = True
        if self._streams:
            limit.reschedule(asyncio.get_running_loop().time())

    async def send(self, message: Any, limit: asyncio.Timeout) -> None:
        if message["type"] == "http.response.start":
            media = next((value for name, value in message.get("headers", ()) if name.lower() == b"content-type"), b"")
            self.events = media.startswith(b"text/event-stream")
            self._streams = self.events or self._call.always
            if self._ended:
                self.end(limit)
        await self._call.send(message)


class _Socket:
    """Between client and application."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._accepted = self._ended = False
        self._closing: asyncio.Task[None] | None = None

    def end(self) -> None:
        self._ended = True
        if self._accepted:
            self._closing = asyncio.create_task(self._close())

    async def closed(self) -> None:
        """A close that was begun is sent."""
        if self._closing is not None:
            await asyncio.wait({self._closing})

    async def pass_on(self, message: Any) -> None:
        """Raises OSError when nobody hears it any more."""
        if self._ended and self._accepted:
            raise ConnectionError("the socket is closed")
        await self._send(message)
        if message["type"] == "websocket.accept":
            self._accepted = True
            if self._ended:
                await self._close()

    async def _close(self) -> None:
        await self._send({"type": "websocket.close", "code": _CLOSE_CODE, "reason": ENDED.code})


def _is_good(verifier: Verifier, token: str, now: float) -> bool:
    try:
        verifier.verify(token, now)
    except TokenRefused:
        return False
    return True
