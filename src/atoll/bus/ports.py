"""What a bus promises. Read this file first; `memory` and `jetstream` keep it, `tests/contract/test_bus.py` checks both.

Subjects are for ever: `event.<service>.<type>.<partition>` lies in the stream `<service>`; `wake.<service>` is outside
every stream and may be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

__all__ = ["MAX_PAYLOAD_BYTES", "Bus", "Interrupted", "Message", "Position", "Received", "Source"]

MAX_PAYLOAD_BYTES = 1_048_576
"""The largest message a provisioned bus takes: headers and body together."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One event on its way out. `headers` are ready wire lines, each `Name: value` and CRLF, Nats-Msg-Id among them."""

    subject: str
    headers: bytes
    body: bytes


class Received(msgspec.Struct, frozen=True, gc=False):
    """One stored event. `sequence` is its place in the stream: rising, not gapless, because streams are filtered."""

    subject: str
    headers: bytes
    body: bytes
    sequence: int


class Position(msgspec.Struct, frozen=True):
    """Where a source stands after a reset. Another `identity` than before means another stream: start again from 1."""

    identity: str
    last_sequence: int


class Interrupted(Exception):
    """Order can't be guaranteed any more (reconnected, a gap, another puller): read the cursor again and `reset`."""


class Source(Protocol):
    """One service's ordered view of another's stream: a durable that only one holder pulls at a time."""

    stream: str

    @property
    def behind(self) -> int:
        """Events that wait to be pulled, as the bus said when it delivered the last one; 0 before that."""
        ...

    async def reset(self, sequence: int, timeout_s: float = 5.0) -> Position:
        """The next `pull` gives the first stored event at or after `sequence`. Raises BusOutage."""
        ...

    async def pull(self, limit: int, wait_s: float) -> list[Received]:
        """Up to `limit` events in stream order without a gap, as soon as there is one; [] when `wait_s` passed.

        Raises Interrupted when the order since the last `reset` can't be guaranteed, BusOutage while disconnected.
        """
        ...

    def acknowledge(self, sequence: int) -> None:
        """Everything up to `sequence` has been committed. Best effort: the cursor in the database is what counts."""
        ...

    async def close(self) -> None:
        """Stop pulling. The durable stays."""
        ...


class Bus(Protocol):
    """A connection with one service's credentials. It connects in the background and reconnects for ever."""

    @property
    def connected(self) -> bool: ...

    @property
    def several(self) -> bool:
        """Whether it has several servers. Then what is said live is lost where two of them do not reach each other: who must
        not miss it reads it again now and then.
        """
        ...

    async def start(self) -> None:
        """Begin connecting; returns at once, whether or not the bus can be reached."""
        ...

    async def wait_connected(self, timeout_s: float) -> bool: ...

    async def close(self) -> None: ...

    async def publish(self, messages: Sequence[Message], timeout_s: float = 5.0) -> None:
        """All are stored in this order when this returns; a repeated Nats-Msg-Id within 30 s is stored once.

        Raises BusOutage when any was not acknowledged: some may be stored, so repeat the same batch in the same order.
        Raises Bug, and stores none, when one is larger than the bus takes.
        """
        ...

    def source(self, stream: str, durable: str) -> Source:
        """The view of `stream` through `durable`, which provision has made."""
        ...

    async def request(self, subject: str, body: bytes = b"", headers: bytes = b"", timeout_s: float = 5.0) -> bytes:
        """The first answer. Raises BusOutage: not connected, nobody answers, refused by permission, or too late."""
        ...

    async def latest(self, stream: str, subjects: str, timeout_s: float = 5.0) -> list[Received]:
        """The last message of every subject in `stream` that `subjects` (NATS wildcards) matches, in stream order.

        A deleted key of a bucket comes with the header `KV-Operation: DEL`.
        """
        ...

    def subscribe(self, subject: str, callback: Callable[[Received], None]) -> Callable[[], None]:
        """Live messages, at most once, `sequence` 0. Kept over reconnects. Returns what ends it."""
        ...

    def on_connected(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Called after every (re)connect, when subscriptions stand again. Returns what ends it."""
        ...

    def send(self, subject: str, body: bytes = b"", headers: bytes = b"") -> None:
        """Fire and forget; dropped while disconnected."""
        ...
