"""The bus inside one process: the same promises as `jetstream`, for tests of services. `Broker` is the server's side.

broker = Broker()
broker.add_stream("orders", "event.orders.>")
broker.add_durable("orders", "payments", "event.orders.order_placed.*")
bus = broker.bus()
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from atoll.bus.ports import MAX_PAYLOAD_BYTES, Interrupted, Message, Position, Received, Source
from atoll.errors import Bug, BusOutage

__all__ = ["Broker", "MemoryBus", "MemorySource"]

logger = logging.getLogger("atoll.bus")

_DUPLICATE_WINDOW_S = 30.0
_identities = itertools.count(1)


@dataclass(slots=True)
class _Durable:
    """Where one durable stands. `epoch` rises with every reset: views of an earlier one are interrupted."""

    filters: tuple[str, ...]
    next_sequence: int = 1
    epoch: int = 0
    acknowledged: int = 0


@dataclass(slots=True)
class _Stream:
    """Stored messages of one stream. Sequences start at 1 and are never used twice."""

    name: str
    subjects: tuple[str, ...]
    identity: str = field(default_factory=lambda: f"memory-{next(_identities)}")
    messages: list[Received] = field(default_factory=list)
    last_sequence: int = 0
    recent: dict[str, float] = field(default_factory=dict)
    durables: dict[str, _Durable] = field(default_factory=dict)

    def store(self, message: Message, now_s: float) -> tuple[int, bool]:
        """(sequence, was it a repetition)."""
        if id := _header(message.headers, "nats-msg-id"):
            for old in [known for known, at in self.recent.items() if now_s - at > _DUPLICATE_WINDOW_S]:
                del self.recent[old]
            if id in self.recent:
                return self.last_sequence, True
            self.recent[id] = now_s
        self.last_sequence += 1
        self.messages.append(Received(message.subject, message.headers, message.body, self.last_sequence))
        return self.last_sequence, False


class Broker:
    """The server: streams, durables and the connections to it. `stop` and `start` are its outages."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.running = True
        self.arrived = asyncio.Event()
        self._clock = clock
        self._streams: dict[str, _Stream] = {}
        self._buses: list[MemoryBus] = []

    def bus(self) -> MemoryBus:
        """A connection; `start` it before use."""
        return MemoryBus(self)

    def add_stream(self, name: str, *subjects: str) -> None:
        """Takes everything published on `subjects` (NATS wildcards). Another call replaces the subjects."""
        if stream := self._streams.get(name):
            stream.subjects = subjects
        else:
            self._streams[name] = _Stream(name, subjects)

    def add_durable(self, stream: str, durable: str, *filters: str) -> None:
        """A place in `stream` that sees only what `filters` match; all of it without any."""
        self._streams[stream].durables.setdefault(durable, _Durable(())).filters = filters

    def delete_stream(self, name: str) -> None:
        """With its messages and durables."""
        del self._streams[name]

    def messages(self, stream: str) -> list[Received]:
        """Everything stored, in order."""
        return list(self._streams[stream].messages)

    def stop(self) -> None:
        """Nobody can reach the broker. What is stored stays."""
        self.running = False
        self._notice()

    def start(self) -> None:
        """The broker can be reached again; connections come back."""
        self.running = True
        for bus in list(self._buses):
            bus.reconnect()

    # what connections do

    def attach(self, bus: MemoryBus) -> None:
        self._buses.append(bus)

    def detach(self, bus: MemoryBus) -> None:
        if bus in self._buses:
            self._buses.remove(bus)
            self._notice()

    def last_sequence(self, subject: str) -> int:
        """Of the last message on `subject`, 0 without one."""
        stream = self._taker(subject)
        return next((m.sequence for m in reversed(stream.messages) if m.subject == subject), 0) if stream else 0

    def _taker(self, subject: str) -> _Stream | None:
        return next((s for s in self._streams.values() if any(matches(p, subject) for p in s.subjects)), None)

    def publish(self, message: Message) -> tuple[str, int, bool] | None:
        """Stores it in the stream of its subject (None: no stream takes it) and hands it to live subscribers."""
        stream = self._taker(message.subject)
        outcome = stream.store(message, self._clock()) if stream else None
        for bus in list(self._buses):
            bus.deliver(message)
        if stream is None or outcome is None:
            return None
        self._notice()
        return stream.name, *outcome

    def stream(self, name: str) -> _Stream:
        if name not in self._streams:
            raise BusOutage(f"there is no stream {name}", hint="has the bus been provisioned for this service?")
        return self._streams[name]

    def durable(self, stream: str, name: str) -> _Durable:
        durables = self.stream(stream).durables
        if name not in durables:
            raise BusOutage(f"there is no durable {name} on stream {stream}", hint="has the bus been provisioned?")
        return durables[name]

    def _notice(self) -> None:
        """Wakes everyone who waits for something to happen here."""
        self.arrived.set()
        self.arrived = asyncio.Event()


class MemoryBus:
    """A connection to a `Broker`."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.generation = 0
        self._started = False
        self._subscribers: list[tuple[str, Callable[[Received], None]]] = []
        self._on_connected: list[Callable[[], None]] = []

    @property
    def connected(self) -> bool:
        return self._started and self.broker.running

    @property
    def several(self) -> bool:
        return False

    @property
    def max_payload_bytes(self) -> int:
        """The largest message taken, headers included."""
        return MAX_PAYLOAD_BYTES

    async def start(self) -> None:
        if not self._started:
            self._started = True
            self.broker.attach(self)
            if self.broker.running:
                self.reconnect()

    async def wait_connected(self, timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.connected:
                    await self.broker.arrived.wait()
        return self.connected

    async def close(self) -> None:
        self._started = False
        self.broker.detach(self)

    async def publish(self, messages: Sequence[Message], timeout_s: float = 5.0) -> None:
        self.check_connected()
        for message in messages:
            _check_size(message)
        for message in messages:
            if self.broker.publish(message) is None:
                raise BusOutage("no stream takes this subject")

    def source(self, stream: str, durable: str) -> Source:
        return MemorySource(self, stream, durable)

    async def request(self, subject: str, body: bytes = b"", headers: bytes = b"", timeout_s: float = 5.0) -> bytes:
        """Only streams answer here: with their acknowledgement."""
        self.check_connected()
        if (expected := _header(headers, "nats-expected-last-subject-sequence")) and (
            last := self.broker.last_sequence(subject)
        ) != int(expected):
            refusal = {"code": 400, "err_code": 10071, "description": f"wrong last sequence: {last}"}
            return json.dumps({"error": refusal}).encode()
        stored = self.broker.publish(Message(subject, headers, body))
        if stored is None:
            raise BusOutage(f"nobody on the bus answers {subject}")
        stream, sequence, repeated = stored
        return json.dumps({"stream": stream, "seq": sequence} | ({"duplicate": True} if repeated else {})).encode()

    async def latest(self, stream: str, subjects: str, timeout_s: float = 5.0) -> list[Received]:
        self.check_connected()
        found = {m.subject: m for m in self.broker.stream(stream).messages if matches(subjects, m.subject)}
        return sorted(found.values(), key=lambda message: message.sequence)

    def subscribe(self, subject: str, callback: Callable[[Received], None]) -> Callable[[], None]:
        entry = (subject, callback)
        self._subscribers.append(entry)
        return lambda: self._subscribers.remove(entry) if entry in self._subscribers else None

    def on_connected(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._on_connected.append(callback)
        return lambda: self._on_connected.remove(callback) if callback in self._on_connected else None

    def send(self, subject: str, body: bytes = b"", headers: bytes = b"") -> None:
        if self.connected:
            self.broker.publish(Message(subject, headers, body))

    # what the broker does

    def reconnect(self) -> None:
        """A new connection: sources of the former one are interrupted."""
        self.generation += 1
        self.broker._notice()
        for callback in list(self._on_connected):
            callback()

    def deliver(self, message: Message) -> None:
        """To live subscribers, in a later step of the loop, as from a network."""
        if not self.connected:
            return
        received = Received(message.subject, message.headers, message.body, 0)
        for pattern, callback in self._subscribers:
            if matches(pattern, message.subject):
                asyncio.get_running_loop().call_soon(_call, callback, received)

    def check_connected(self) -> None:
        if not self.connected:
            raise BusOutage("not connected to the bus")


class MemorySource:
    """One view of a durable; a reset by another view, or a reconnect, interrupts it."""

    def __init__(self, bus: MemoryBus, stream: str, durable: str) -> None:
        self.stream = stream
        self._bus = bus
        self._broker = bus.broker
        self._durable = durable
        self._valid: tuple[int, str, int] | None = None  # generation, identity, epoch
        self.behind = 0

    async def reset(self, sequence: int, timeout_s: float = 5.0) -> Position:
        self._bus.check_connected()
        stream = self._broker.stream(self.stream)
        durable = self._broker.durable(self.stream, self._durable)
        durable.epoch += 1
        durable.next_sequence = max(1, sequence)
        self._valid = (self._bus.generation, stream.identity, durable.epoch)
        self.behind = 0
        self._broker._notice()
        return Position(stream.identity, stream.last_sequence)

    async def pull(self, limit: int, wait_s: float) -> list[Received]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not (batch := self._take(limit)):
                    await self._broker.arrived.wait()
                return batch
        return []

    def _take(self, limit: int) -> list[Received]:
        self._bus.check_connected()
        try:
            stream, durable = self._broker.stream(self.stream), self._broker.durable(self.stream, self._durable)
        except BusOutage as error:
            raise Interrupted(error.detail) from None
        if self._valid != (self._bus.generation, stream.identity, durable.epoch):
            raise Interrupted("the durable was reset, or the connection is another")
        waiting = [
            message
            for message in stream.messages[_index(stream.messages, durable.next_sequence) :]
            if not durable.filters or any(matches(f, message.subject) for f in durable.filters)
        ]
        batch = waiting[:limit]
        if batch:
            self.behind = len(waiting) - len(batch)
            durable.next_sequence = batch[-1].sequence + 1
        return batch

    def acknowledge(self, sequence: int) -> None:
        if self._bus.connected and self._valid:
            with contextlib.suppress(BusOutage):
                durable = self._broker.durable(self.stream, self._durable)
                durable.acknowledged = max(durable.acknowledged, sequence)

    async def close(self) -> None:
        self._valid = None
        self._broker._notice()


def matches(pattern: str, subject: str) -> bool:
    """NATS wildcards: `*` is one token, `>` one or more at the end."""
    wanted, given = pattern.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or token not in ("*", given[position]):
            return False
    return len(wanted) == len(given)


def _index(messages: list[Received], sequence: int) -> int:
    """Where the first message at or after `sequence` stands."""
    import bisect

    return bisect.bisect_left(messages, sequence, key=lambda message: message.sequence)


def _header(headers: bytes, name: str) -> str:
    for line in headers.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.decode().lower() == name:
            return value.strip().decode()
    return ""


def _check_size(message: Message) -> None:
    size = len(b"NATS/1.0\r\n\r\n") + len(message.headers) + len(message.body)
    if size > MAX_PAYLOAD_BYTES:
        raise Bug(
            f"a message of {size} bytes for {message.subject} is larger than the {MAX_PAYLOAD_BYTES} bytes the bus takes",
            hint="publish a reference to the data instead of the data",
        )


def _call(callback: Callable[[Received], None], received: Received) -> None:
    try:
        callback(received)
    except Exception:
        logger.exception("a subscriber of %s failed", received.subject)
