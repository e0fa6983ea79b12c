"""What a request is answered, and how it is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from atoll.service.problems import MEDIA_TYPE, Problem

__all__ = ["ASGI", "Answer", "Receive", "Scope", "Send", "answer_of", "refuse", "send_answer"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_PROBLEM = (b"content-type", MEDIA_TYPE.encode())
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]


class Answer:
    """An ASGI response made by the handler, or a status with a body."""

    __slots__ = ("body", "headers", "response", "status")

    def __init__(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]], response: ASGI | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.response = response


def answer_of(problem: Problem) -> Answer:
    return Answer(problem.status, problem.body(), [_PROBLEM, *problem.headers])


async def refuse(scope: Scope, send: Send, problem: Problem) -> None:
    """Answers with `problem`."""
    await send_answer(scope, send, answer_of(problem))


async def send_answer(scope: Scope, send: Send, answer: Answer) -> None:
    """A HEAD has the headers of its GET and no body (RFC 9110 §9.3.2)."""
    headers = answer.headers
    if answer.status not in (204, 304):
        headers = [*headers, (b"content-length", str(len(answer.body)).encode())]
    if scope["type"] == "websocket":
        await _deny(scope, send, answer, headers)
        return
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body})


async def _deny(scope: Scope, send: Send, answer: Answer, headers: list[tuple[bytes, bytes]]) -> None:
    """A WebSocket that is refused was a request; a server that can't say so answers 403."""
    if "websocket.http.response" not in scope.get("extensions", ()):
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "websocket.http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": answer.body})
