"""`/health/live`, `/health/ready`, `/health/backlog`, `/health/metrics`: for host, gateway and Prometheus, never routed.

Ready means: this process serves (it neither starts nor drains) and its own database answers. The bus is a field, never a
reason: a dead bus must not take down everything that only needs its own database.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec

from atoll.bus.ports import Bus
from atoll.database.ports import Database, Parked
from atoll.errors import DatabaseOutage
from atoll.telemetry.metrics import MEDIA_TYPE

__all__ = ["Health"]

_ASK_AGAIN_S = 0.5


class Health:
    """An ASGI application for these paths. Only while `stage` is "serving" can readiness be 200."""

    def __init__(
        self, service: str, database: Database | None, bus: Bus | None, metrics: Callable[[], Awaitable[str]] | None = None
    ) -> None:
        self._service = service
        self._database = database
        self._bus = bus
        self._metrics = metrics
        self._database_state: tuple[float, str] = (0.0, "")
        self.stage: Literal["starting", "serving", "draining"] = "starting"

    def drain(self) -> None:
        """From now on it is not ready."""
        self.stage = "draining"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/health/live":
            await _answer(send, 200, {"status": "live", "service": self._service})
        elif scope["path"] == "/health/ready":
            await _answer(send, *await self._ready())
        elif scope["path"] == "/health/backlog":
            await _answer(send, *await self._backlog())
        elif scope["path"] == "/health/metrics" and self._metrics is not None:
            await _send(send, 200, (await self._metrics()).encode(), MEDIA_TYPE)
        else:
            await _answer(send, 404, {"status": 404, "code": "not_found", "title": "Not Found"})

    async def _ready(self) -> tuple[int, dict[str, Any]]:
        database = await self._database_answers()
        ready = self.stage == "serving" and database in ("none", "up")
        bus = "none" if self._bus is None else "up" if self._bus.connected else "down"
        state = "ready" if ready else "not ready" if self.stage == "serving" else self.stage
        return (200 if ready else 503), {"status": state, "service": self._service, "database": database, "bus": bus}

    async def _backlog(self) -> tuple[int, dict[str, Any]]:
        """What this service's database still has to hand on: events to publish, to try again, and given up."""
        if self._database is None:
            return 200, {"service": self._service, "outbox": 0, "waiting": 0, "dead": 0, "failing": None}
        try:
            journal = self._database.journal
            outbox, parked = (await journal.backlog()).count, await journal.parked()
        except DatabaseOutage:
            return 503, {"service": self._service, "status": "the database does not answer"}
        waiting = [event for event in parked if event.state == "waiting"]
        found = {"outbox": outbox, "waiting": len(waiting), "dead": len(parked) - len(waiting), "failing": _failing(waiting)}
        return 200, {"service": self._service, **found}

    async def _database_answers(self) -> str:
        """At most one question every half second, however many ask."""
        if self._database is None:
            return "none"
        if self.stage == "starting":  # not an answer to remember: it is being opened
            return "opening"
        asked_at, state = self._database_state
        if time.monotonic() - asked_at < _ASK_AGAIN_S and state:
            return state
        try:
            await self._database.ping()
            state = "up"
        except DatabaseOutage:
            state = "down"
        self._database_state = (time.monotonic(), state)
        return state


def _failing(waiting: Sequence[Parked]) -> dict[str, Any] | None:
    """The one that was tried most often; the others may wait for it only."""
    tried = [event for event in waiting if event.error]
    if not tried:
        return None
    most = max(tried, key=lambda event: event.attempts)
    return {"type": most.type, "id": most.id, "attempts": most.attempts, "error": most.error}


async def _answer(send: Any, status: int, body: dict[str, Any]) -> None:
    await _send(send, status, msgspec.json.encode(body), "application/json")


async def _send(send: Any, status: int, content: bytes, media_type: str) -> None:
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", b"%d" % len(content)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
