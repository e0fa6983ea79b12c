"""Server-sent events from the service's own database.

Only one replica consumes an event, so a stream can't wait for its own process to handle one: every replica tails the
database, which all of them see.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import msgspec

from atoll.sqlite import Database
from notifications.message import Message, messages_after

__all__ = ["Tail"]

_BATCH = 100


@dataclass(frozen=True, slots=True)
class Tail:
    """One customer's messages after `after`, as lines of text/event-stream. Ends when the caller's token does."""

    database: Database
    customer_id: str
    after: int
    ends_at: float
    pause_s: float = 0.5
    heartbeat_s: float = 15.0

    async def lines(self) -> AsyncGenerator[bytes, None]:
        # The first line tells a browser how soon to come back, and gets the headers through every proxy at once.
        yield b"retry: 1000\n\n"
        after, said_at = self.after, time.monotonic()
        while time.time() < self.ends_at:
            async with self.database.reader() as tx:
                messages = await messages_after(tx, self.customer_id, after, _BATCH)
            for message in messages:
                after = message.id
                yield _event(message)
            if messages:
                said_at = time.monotonic()
            elif time.monotonic() - said_at >= self.heartbeat_s:
                said_at = time.monotonic()
                yield b": still here\n\n"
            if len(messages) < _BATCH:
                await asyncio.sleep(self.pause_s)


def _event(message: Message) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (message.id, message.kind.encode(), msgspec.json.encode(message))
