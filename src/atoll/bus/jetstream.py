"""The bus on NATS JetStream. Its promises stand in `ports`; what the server needs for them is made by `provision.nats`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from atoll.bus.endpoint import Endpoint
from atoll.bus.ports import Interrupted, Message, Position, Received, Source
from atoll.bus.wire import Answer, Wire, frame, lines, status
from atoll.errors import BusOutage

__all__ = ["JetStreamBus", "JetStreamSource", "information"]

logger = logging.getLogger("atoll.bus")

_PULL_S = 4  # shorter than a lease: what a stopped holder asked for has expired when another takes over
_HEARTBEAT_S = 1.0
_GRACE_S = 3 * _HEARTBEAT_S
_PULL_BYTES = 16 * 1024 * 1024
_LAST_CONSUMER = b"Nats-Last-Consumer: "
_UP_TO = b"Nats-UpTo-Sequence: "
_UNSENT = b"Nats-Pending-Messages: "
_BEHIND_S = 0.1
_MARGIN_S = 0.2
_NOT_BEHIND = "(10070)"  # the server's number for "wrong last msg ID"


class JetStreamBus:
    """A connection with one service's credentials. `url` is `nats://user:password@host:port`, or several with commas, or
    `tls://…`; then `authorities` is the file of those who may vouch for the bus.
    """

    def __init__(self, url: str, *, name: str = "", ping_interval_s: float = 5.0, authorities: str = "") -> None:
        endpoint = Endpoint.parse(url, authorities)
        self.wire = Wire(endpoint, name=name or endpoint.user, ping_interval_s=ping_interval_s)
        self._one_by_one = False

    @property
    def connected(self) -> bool:
        return self.wire.connected

    @property
    def several(self) -> bool:
        return self.wire.clustered

    @property
    def max_payload_bytes(self) -> int:
        """The largest message the server takes, headers included; the usual one before the first connect."""
        return self.wire.max_payload_bytes

    async def start(self) -> None:
        self.wire.start()

    async def wait_connected(self, timeout_s: float) -> bool:
        return await self.wire.wait_connected(timeout_s)

    async def close(self) -> None:
        await self.wire.close()

    async def publish(self, messages: Sequence[Message], timeout_s: float = 5.0) -> None:
        """In a batch each is stored only behind the one before it (see `wire`). Where another relay's stands between them, that
        is never so again: then singly, one after the other.
        """
        batches = [[message] for message in messages] if self._one_by_one else [messages] if messages else []
        self._one_by_one = False
        try:
            for batch in batches:
                await self.wire.publish(batch, timeout_s)
        except BusOutage as outage:
            self._one_by_one = _NOT_BEHIND in outage.detail
            raise

    def source(self, stream: str, durable: str) -> Source:
        return JetStreamSource(self.wire, stream, durable)

    async def request(self, subject: str, body: bytes = b"", headers: bytes = b"", timeout_s: float = 5.0) -> bytes:
        return (await self.wire.request(Message(subject, headers, body), timeout_s))[0].body

    async def latest(self, stream: str, subjects: str, timeout_s: float = 5.0) -> list[Received]:
        """Needs `allow_direct` on the stream; the server gives at most 1,024 subjects.

        One subject may be answered by a server that is behind: compare `sequence`.
        """
        if "*" in subjects or ">" in subjects:
            return sorted(await self._snapshot(stream, subjects, timeout_s), key=lambda message: message.sequence)
        # one subject stands in the request's own, so that permissions can tell
        question = Message(f"$JS.API.DIRECT.GET.{stream}.{subjects}", b"", b"")
        return _messages(stream, await self.wire.request(question, timeout_s))

    async def _snapshot(self, stream: str, subjects: str, timeout_s: float) -> list[Received]:
        """Any server answers a direct get, also one that is behind, and who misses a withdrawn key here hears of it no more.
        So the leader is asked how far the stream is, and an answer that ends before that is asked for again.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        known = await self._known(stream, subjects, timeout_s) if self.wire.clustered else {}
        question = Message(f"$JS.API.DIRECT.GET.{stream}", b"", json.dumps({"multi_last": [subjects]}).encode())
        while True:
            answers = await self.wire.request(question, timeout_s, many=True)
            if not _behind(answers[-1], known):
                return _messages(stream, answers)
            self.wire.not_served(started)  # it asks those near it first: another server may ask others
            if loop.time() - started > timeout_s:
                raise BusOutage(f"no snapshot of {stream}: the servers that answer are behind")
            await asyncio.sleep(_BEHIND_S)

    async def _known(self, stream: str, subjects: str, timeout_s: float) -> dict[str, Any]:
        """The state of a stream as its leader knows it, with its subjects of that kind."""
        question = Message(information(stream), b"", json.dumps({"subjects_filter": subjects}).encode())
        answer = json.loads((await self.wire.request(question, timeout_s))[0].body)
        if error := answer.get("error"):
            raise BusOutage(f"no snapshot of {stream}: {error.get('description')}")
        return dict(answer["state"])

    async def stored(self, stream: str, query: dict[str, Any], timeout_s: float = 5.0) -> list[Received]:
        """Messages of a stream by a batched direct get (ADR-31), in the order the server gives them."""
        question = Message(f"$JS.API.DIRECT.GET.{stream}", b"", json.dumps(query).encode())
        return _messages(stream, await self.wire.request(question, timeout_s, many=True))

    def subscribe(self, subject: str, callback: Callable[[Received], None]) -> Callable[[], None]:
        def deliver(subject: bytes, _reply: bytes, headers: bytes, body: bytes) -> None:
            try:
                callback(Received(subject.decode(), lines(headers), body, 0))
            except Exception:
                logger.exception("a subscriber of %s failed", subject.decode())

        sid = self.wire.subscribe(subject, deliver)
        return lambda: self.wire.unsubscribe(sid)

    def on_connected(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.wire.on_up.append(callback)
        return lambda: _discard(self.wire.on_up, callback)

    def send(self, subject: str, body: bytes = b"", headers: bytes = b"") -> None:
        self.wire.write(frame(Message(subject, headers, body)))


class JetStreamSource:
    """Pulls one durable: one request outstanding at a time, asked for again as soon as it is used up.

    A reset restarts the server's count of deliveries at 1; only 1, 2, 3… is the order since that reset. What a pull of an
    earlier reset or of another holder swallowed shows as a hole in that count, or in the count the idle heartbeat carries.
    """

    def __init__(self, wire: Wire, stream: str, durable: str) -> None:
        self.stream = stream
        self._wire = wire
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._reset = f"$JS.API.CONSUMER.RESET.{stream}.{durable}"
        self._information = information(stream)
        self._resets = 0
        self._sid: bytes | None = None
        self._inbox = ""
        self._trouble = "not reset since the connection was made"
        self._pending = b"0"
        self._queue: list[Received] = []
        self._acknowledgeable: deque[tuple[int, bytes]] = deque()
        self._count = self._sequence = 0  # deliveries since the reset, and the last one's place in the stream
        self._outstanding = 0
        self._asked = (0, 0.0)  # on which connection, and when what was asked for has expired
        self._answer_due = 0.0
        self._waiter: asyncio.Future[None] | None = None
        wire.on_down.append(self._disconnected)

    @property
    def behind(self) -> int:
        return int(self._pending) + len(self._queue)

    async def reset(self, sequence: int, timeout_s: float = 5.0) -> Position:
        self._stop_listening("a reset did not finish")
        await self._until_forgotten()
        connection = self._wire.reconnects
        questions = self._ask(self._information, {}, timeout_s), self._ask(self._reset, {"seq": max(1, sequence)}, timeout_s)
        found = (await asyncio.gather(*questions))[0]
        if not self._wire.connected or self._wire.reconnects != connection:
            raise BusOutage("the connection to the bus was lost")
        self._resets += 1
        self._inbox = f"{self._wire.inbox}.{self.stream}.{self._resets}"
        self._sid = self._wire.subscribe(self._inbox, self._delivered)
        self._trouble, self._count, self._sequence, self._outstanding, self._pending = "", 0, 0, 0, b"0"
        return Position(identity=found["created"], last_sequence=found["state"]["last_seq"])

    async def pull(self, limit: int, wait_s: float) -> list[Received]:
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while True:
            if self._trouble:
                self._raise()
            if not self._outstanding and len(self._queue) < limit:
                self._ask_for(limit)
            if self._queue:
                self._heard()  # events take the place of heartbeats
                batch, self._queue = self._queue[:limit], self._queue[limit:]
                return batch
            if (now := loop.time()) > self._answer_due:
                self._stop_listening("the server forgot the pull request")
            elif now >= end:
                return []
            else:
                await self._wait_until(min(end, self._answer_due + 0.001))

    def acknowledge(self, sequence: int) -> None:
        reply, waiting = b"", self._acknowledgeable
        while waiting and waiting[0][0] <= sequence:
            reply = waiting.popleft()[1]
        if reply:
            self._wire.write(b"PUB %s 4\r\n+ACK\r\n" % reply)

    async def close(self) -> None:
        self._stop_listening("closed")
        _discard(self._wire.on_down, self._disconnected)

    async def _ask(self, subject: str, question: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        body = json.dumps(question).encode() if question else b""
        answer: dict[str, Any] = json.loads((await self._wire.request(Message(subject, b"", body), timeout_s))[0].body)
        if error := answer.get("error"):
            raise BusOutage(f"{subject}: {error.get('description')}", hint="has the bus been provisioned for this service?")
        return answer

    async def _until_forgotten(self) -> None:
        """Until no pull of ours waits at the server.

        Among several servers, that nobody listens any more goes another way than a reset, and comes later as a rule. So what
        is due after the reset would be given to the last pull and be lost, and again after the next reset, for ever.
        """
        connection, expires_at = self._asked
        left_s = expires_at - asyncio.get_running_loop().time()
        if self._wire.clustered and connection == self._wire.reconnects and left_s > 0:
            await asyncio.sleep(left_s)

    def _ask_for(self, count: int) -> None:
        question = {
            "batch": count,
            "expires": _PULL_S * 10**9,
            "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
            "max_bytes": _PULL_BYTES,
        }
        self._outstanding = count
        self._asked = (self._wire.reconnects, asyncio.get_running_loop().time() + _PULL_S + _MARGIN_S)
        self._heard()
        self._wire.write(frame(Message(self._next, b"", json.dumps(question).encode()), self._inbox))

    def _heard(self) -> None:
        self._answer_due = asyncio.get_running_loop().time() + _GRACE_S

    def _delivered(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        if not reply:
            self._told(headers)
            return
        words = reply.split(b".")  # $JS.ACK.<stream>.<durable>.<deliveries>.<stream sequence>.<count>.<time>.<pending>
        count, sequence = int(words[-3]), int(words[-4])
        if count != self._count + 1 or sequence <= self._sequence:
            self._stop_listening(f"delivery {count} of event {sequence} came after {self._count} of {self._sequence}")
            return
        self._count, self._sequence, self._pending = count, sequence, words[-1]
        self._outstanding -= 1
        self._queue.append(Received(subject.decode(), headers[10:-2], body, sequence))
        self._acknowledgeable.append((sequence, reply))
        if self._waiter is not None:
            self._wake()

    def _told(self, headers: bytes) -> None:
        """A status instead of an event: the pull is over, or still alive, or can't be."""
        match status(headers):
            case 100:
                self._heard()
                self._compare(headers)
            case 404 | 408 | 409 if b"Deleted" not in headers and b"Shutdown" not in headers:
                self._outstanding -= _never_to_come(headers, self._outstanding)
            case _:
                self._stop_listening(headers[9:].decode(errors="replace").strip())
        self._wake()

    def _compare(self, headers: bytes) -> None:
        start = headers.find(_LAST_CONSUMER)
        if start < 0:
            return
        start += len(_LAST_CONSUMER)
        count = int(headers[start : headers.find(b"\r", start)])
        if count != self._count:
            self._stop_listening(f"the server counts {count} deliveries, {self._count} came")

    def _disconnected(self) -> None:
        self._stop_listening("the connection to the bus was lost")

    def _stop_listening(self, trouble: str) -> None:
        """Nothing that still comes for the last reset counts: nobody listens there any more, so the server keeps it."""
        self._trouble = trouble
        if self._sid is not None:
            self._wire.unsubscribe(self._sid)
            self._sid = None
        self._queue = []
        self._acknowledgeable.clear()
        self._wake()

    def _raise(self) -> None:
        if not self._wire.connected:
            raise BusOutage("not connected to the bus")
        raise Interrupted(self._trouble)

    async def _wait_until(self, moment: float) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_at(moment, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def information(stream: str) -> str:
    """Where provision lets a consumer ask what a stream is. JetStream's own subject would ask the asker's own account."""
    return f"information.{stream}"


def _never_to_come(headers: bytes, outstanding: int) -> int:
    """How many events of a pull that is over the server has not sent. Those that it has may still come: with several servers
    they wait until the others know of them, and the word that the pull is over does not.
    """
    start = headers.find(_UNSENT)
    return int(headers[start + len(_UNSENT) :].split(b"\r", 1)[0]) if start >= 0 else outstanding


def _behind(answer: Answer, known: dict[str, Any]) -> bool:
    """Whether a direct get ended before what the leader knows. Where nothing is found, nothing says how far that server is."""
    if answer.status == 404:
        return bool(known.get("subjects"))
    start = answer.headers.find(_UP_TO)
    return start >= 0 and int(answer.headers[start + len(_UP_TO) :].split(b"\r", 1)[0]) < known.get("last_seq", 0)


def _messages(stream: str, answers: Sequence[Answer]) -> list[Received]:
    """What a direct get answered, without the status that ends it (204: the end, 404: nothing)."""
    if answers[-1].status not in (0, 204, 404):
        raise BusOutage(f"no snapshot of {stream}: {answers[-1].headers[9:].decode(errors='replace').strip()}")
    return [_stored(answer.headers, answer.body) for answer in answers if not answer.status]


def _stored(headers: bytes, body: bytes) -> Received:
    """A message of a snapshot: its subject and sequence travel as headers."""
    subject, sequence = "", 0
    for line in headers.split(b"\r\n"):
        if line.startswith(b"Nats-Subject: "):
            subject = line[14:].decode()
        elif line.startswith(b"Nats-Sequence: "):
            sequence = int(line[15:])
    return Received(subject, lines(headers), body, sequence)


def _discard(callbacks: list[Callable[[], None]], callback: Callable[[], None]) -> None:
    if callback in callbacks:
        callbacks.remove(callback)
