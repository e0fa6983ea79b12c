"""Sends spans to a collector from a task of its own, in batches, over one connection that stays open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from atoll.telemetry import otlp
from atoll.telemetry.collector import collector_at
from atoll.telemetry.spans import Span, Spans

if TYPE_CHECKING:
    from http.client import HTTPConnection

__all__ = ["Exporter"]

_EVERY_S = 1.0
_BATCH = 256
_TIMEOUT_S = 5.0
_LONGEST_PAUSE_S = 30.0
_log = logging.getLogger("atoll.telemetry")


class Exporter:
    """`run` until `stop`, then one last try for what is left. A collector that is down is asked again, ever more seldom."""

    def __init__(self, spans: Spans, endpoint: str, resource: Mapping[str, str]) -> None:
        self._spans = spans
        self._host, self._port = collector_at(endpoint)
        self._resource = resource
        self._connection: HTTPConnection | None = None
        self._unsent: list[Span] = []
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """`run` ends after the batch in hand."""
        self._stopping.set()

    async def run(self) -> None:
        pause_s = _EVERY_S
        while not await self._stopped_within(pause_s):
            try:
                await self._send_all()
                pause_s = _EVERY_S
            except OSError as error:
                if pause_s == _EVERY_S:
                    _log.warning("spans can't be sent and wait; what finds no room is dropped: %s", error)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)

        await self._leave()

    async def _leave(self) -> None:
        try:
            await self._send_all()
        except OSError as error:
            _log.warning("%d spans are lost: %s", len(self._spans) + len(self._unsent), error)
        finally:
            if self._connection is not None:
                self._connection.close()

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _send_all(self) -> None:
        while self._spans or self._unsent:
            await self._send()

    async def _send(self) -> None:
        """Raises OSError; then the batch stays, and is what is sent next."""
        self._unsent = self._unsent or self._spans.take(_BATCH)
        status = await asyncio.to_thread(self._post, otlp.encode(self._unsent, self._resource))
        if status in (429, 502, 503, 504):  # what OTLP calls retryable
            raise OSError(f"the collector answered {status}")
        if status != 200:
            self._spans.dropped += len(self._unsent)
            _log.warning("the collector refused %d spans with %d", len(self._unsent), status)
        self._unsent = []

    def _post(self, body: bytes) -> int:
        """In a thread: the library waits for the answer. Raises OSError."""
        from http.client import HTTPConnection, HTTPException

        fresh = self._connection is None
        connection = self._connection or HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request("POST", otlp.PATH, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, HTTPException) as error:
            connection.close()
            self._connection = None
            if fresh:
                raise OSError(f"{self._host}:{self._port}: {error or type(error).__name__}") from error
            return self._post(body)  # the collector has closed a connection that was idle
        self._connection = connection
        return answer.status
