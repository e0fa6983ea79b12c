"""What a request is answered, before it is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["ASGI", "Answer", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]


class Answer:
    """An ASGI response made by the handler, or a status with a body."""

    __slots__ = ("body", "headers", "response", "status")

    def __init__(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]], response: ASGI | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.response = response
