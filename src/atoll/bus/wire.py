"""The NATS client protocol on one connection that comes back for ever. Thin on purpose: docs/decisions/0001-own-nats-client.md.

What is not acknowledged when a connection breaks fails at once and is never sent again from here: only the caller knows
whether repeating is right. Source: https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from atoll.bus.endpoint import Endpoint, Server, Servers, explained
from atoll.bus.ports import MAX_PAYLOAD_BYTES, Message
from atoll.errors import AtollError, Bug, BusOutage

__all__ = ["Answer", "Wire"]

logger = logging.getLogger("atoll.bus")

_END = b"\r\n"
_VERSION_LINE = b"NATS/1.0\r\n"
_MESSAGE_ID = b"Nats-Msg-Id:"
_VERSION_BYTES = len(_VERSION_LINE)
_FRAME_BYTES = _VERSION_BYTES + len(_END)  # what a header block has besides its lines
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.02, 1.0
_HANDSHAKE_S, _HANDSHAKE_OF_SEVERAL_S = 5.0, 2.0
_MISSED_PINGS = 2
_PATIENCE_S = 2.5  # without JetStream, before another server is tried: a new leader is there sooner than in twice that

Deliver = Callable[[bytes, bytes, bytes, bytes], None]
"""Called with subject, reply subject (b"" if none), header block (b"" if none) and body."""


class Answer(msgspec.Struct, frozen=True):
    """What came back on a reply subject: the raw header block (b"" if none) and the body."""

    headers: bytes
    body: bytes

    @property
    def status(self) -> int:
        """The number of a status-only answer (503: nobody answers), 0 for an ordinary one."""
        return status(self.headers)


def status(headers: bytes) -> int:
    """The status in the first line of a header block, `NATS/1.0 503`, or 0."""
    return int(headers[9:12]) if headers[8:9] == b" " else 0


class _Expected:
    """Answers that somebody waits for: `left` acknowledgements; 0: one answer; -1: all up to the first that is a status.

    `subjects` tells which refusal by the server is meant.
    """

    __slots__ = ("answers", "future", "left", "subjects")

    def __init__(self, future: asyncio.Future[list[Answer]], left: int, subjects: Callable[[], set[str]]) -> None:
        self.future = future
        self.left = left
        self.subjects = subjects
        self.answers: list[Answer] = []


class _Connection(asyncio.Protocol):
    """One TCP connection: parses what arrives and hands it to its owner."""

    def __init__(self, owner: Wire) -> None:
        self.owner = owner
        self.greeted: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.unanswered_pings = 0
        self._buffer = b""
        self._routes: Mapping[bytes, Deliver] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def connection_lost(self, error: Exception | None) -> None:
        outage = BusOutage(f"the bus closed the connection: {error or self.owner.last_error}")
        for awaited in (self.greeted, self.ready):
            if not awaited.done():
                awaited.set_exception(outage)
                awaited.exception()  # who waits still gets it; nobody has to
        self.owner.lost(self)

    def pause_writing(self) -> None:
        self.owner.writable.clear()

    def resume_writing(self) -> None:
        self.owner.writable.set()

    def data_received(self, data: bytes) -> None:
        """The hot path: one pass over the bytes, no copies but the slices that are handed on."""
        buffer = self._buffer + data if self._buffer else data
        position, length, routes = 0, len(buffer), self._routes
        while (end := buffer.find(_END, position)) >= 0:
            kind = buffer[position]
            if kind == 72:  # HMSG <subject> <sid> [reply] <header bytes> <total bytes>
                words = buffer[position + 5 : end].split(b" ")
                start = end + 2
                split, stop = start + int(words[-2]), start + int(words[-1])
                if stop + 2 > length:
                    break
                if deliver := routes.get(words[1]):
                    reply = words[2] if len(words) == 5 else b""
                    deliver(words[0], reply, buffer[start:split], buffer[split:stop])
                position = stop + 2
            elif kind == 77:  # MSG <subject> <sid> [reply] <bytes>
                words = buffer[position + 4 : end].split(b" ")
                start = end + 2
                stop = start + int(words[-1])
                if stop + 2 > length:
                    break
                if deliver := routes.get(words[1]):
                    deliver(words[0], words[2] if len(words) == 4 else b"", b"", buffer[start:stop])
                position = stop + 2
            else:
                self._control(buffer[position:end])
                position = end + 2
        self._buffer = buffer[position:] if position < length else b""

    def _control(self, line: bytes) -> None:
        if line == b"PING":
            self.write(b"PONG\r\n")
        elif line == b"PONG":
            self.unanswered_pings = 0
            if not self.ready.done():
                self.ready.set_result(None)
        elif line.startswith(b"INFO "):
            information = json.loads(line[5:])
            self.owner.informed(information)
            if not self.greeted.done():
                self.greeted.set_result(information)
        elif line.startswith(b"-ERR"):
            self.owner.refused(line[4:].strip().strip(b"'").decode(errors="replace"))

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    @property
    def untrusted(self) -> bytes:
        """What has come and is not understood yet."""
        return self._buffer

    def open(self) -> None:
        """From now on messages count. What comes before, and so in front of TLS, anybody on the way may have written."""
        self._routes = self.owner.routes


class Wire:
    """A connection that is made in the background and comes back for ever. All methods belong to one event loop."""

    def __init__(self, endpoint: Endpoint, *, name: str = "atoll", ping_interval_s: float = 5.0) -> None:
        self.endpoint = endpoint
        self.name = name
        self.inbox = f"_INBOX_{endpoint.user or 'anonymous'}.{os.urandom(9).hex()}"
        self.max_payload_bytes = MAX_PAYLOAD_BYTES
        self.server_id = ""
        self.clustered = False  # whether what is asked may be answered by another server than the one that knows best
        self.last_error = ""
        self.reconnects = -1
        self.routes: dict[bytes, Deliver] = {b"1": self._answered}
        self.writable = asyncio.Event()
        self.writable.set()
        self._subjects: dict[bytes, bytes] = {b"1": f"{self.inbox}.*".encode()}
        self._expected: dict[bytes, _Expected] = {}
        self._servers = Servers(endpoint.servers)
        self._unserved_since: float | None = None
        self._connection: _Connection | None = None
        self._established = asyncio.Event()
        self._broken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ping_interval_s = ping_interval_s
        self._last_sid = 1
        self._last_token = 0
        self.on_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []

    # life

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def start(self) -> None:
        """Begins connecting in the background."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._stay_connected(), name=f"bus {self.name}")

    async def wait_connected(self, timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._established.wait()
        return self.connected

    async def close(self) -> None:
        """What was written leaves; what was expected fails."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if (connection := self._connection) is not None and connection.transport is not None:
            self.lost(connection)
            connection.transport.close()

    async def _stay_connected(self) -> None:
        delay_s = _FIRST_DELAY_S
        while True:
            if (connection := await self._connect()) is None:
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.5))
                delay_s = min(delay_s * 2, _LONGEST_DELAY_S)
                continue
            delay_s = _FIRST_DELAY_S
            self._up(connection)
            await self._watch(connection)

    async def _connect(self) -> _Connection | None:
        """With the first server that takes us; None when all were tried."""
        for server in self._servers.round():
            try:
                connection = await self._enter(server)
            except ssl.SSLError as error:
                self._not_entered(explained(error, server))
            except (OSError, TimeoutError, AtollError) as error:
                logger.debug("the bus at %s can't be reached: %s", server, error)
                if isinstance(error, AtollError) and error.hint:  # somebody has to do something about it
                    self._not_entered(error)
            else:
                self._servers.took(server)
                return connection
        return None

    def _not_entered(self, error: AtollError) -> None:
        """Told once, not at each try; whoever wants something of the bus is told too."""
        reason = f"{error.detail} ({error.hint})" if error.hint else error.detail
        if reason != self.last_error:
            logger.warning("%s", reason)
        self.last_error = reason

    async def _enter(self, server: Server) -> _Connection:
        connection = _Connection(self)
        timeout_s = _HANDSHAKE_OF_SEVERAL_S if self._servers.several else _HANDSHAKE_S
        try:
            async with asyncio.timeout(timeout_s):
                await self._call(connection, server, timeout_s)
                information = await connection.greeted
                await self._encrypt(connection, server, information)
                self._introduce(connection, information)
                await connection.ready
        except BaseException:
            if connection.transport is not None:
                connection.transport.abort()
            raise
        return connection

    async def _call(self, connection: _Connection, server: Server, timeout_s: float) -> None:
        """A name may have several addresses, of which one is dead: each is tried, in an order by chance."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        addresses = [(str(address[0]), int(address[1])) for *_, address in found]
        random.shuffle(addresses)
        for number, address in enumerate(addresses, 1):
            try:
                async with asyncio.timeout(timeout_s / len(addresses)):
                    await loop.create_connection(lambda: connection, *address)
                return
            except OSError:  # so is a TimeoutError
                if number == len(addresses):
                    raise

    async def _encrypt(self, connection: _Connection, server: Server, information: dict[str, Any]) -> None:
        """What the URL says counts: who only greets without TLS is not the bus."""
        spoken = bool(information.get("tls_required") or information.get("tls_available"))
        if not self.endpoint.tls:
            if information.get("tls_required"):
                raise BusOutage(f"the bus at {server} speaks TLS only", hint="its URL begins with tls://")
            return
        if not spoken:
            raise BusOutage(f"the bus at {server} speaks no TLS", hint="its URL begins with nats://, or it needs a certificate")
        if connection.untrusted:
            raise BusOutage(f"the bus at {server} went on after its greeting", hint="somebody on the way may pretend to be it")
        assert connection.transport is not None
        connection.transport = await asyncio.get_running_loop().start_tls(
            connection.transport, connection, self.endpoint.trust(), server_hostname=server.name
        )

    def informed(self, information: dict[str, Any]) -> None:
        """INFO comes first, and again whenever servers come or go."""
        self.max_payload_bytes = int(information.get("max_payload", self.max_payload_bytes))
        self.server_id = str(information.get("server_id", self.server_id))
        self.clustered = bool(information.get("cluster"))
        self._servers.learn(information.get("connect_urls") or ())

    def _introduce(self, connection: _Connection, information: dict[str, Any]) -> None:
        """CONNECT and the subscriptions, then PING: its PONG says that all of it was taken."""
        options = {
            "verbose": False, "pedantic": False, "lang": "python-atoll", "version": "1", "protocol": 1,
            "headers": True, "no_responders": True, "name": self.name,
        }  # fmt: skip
        options |= self.endpoint.proof(str(information.get("nonce", "")))
        connection.open()
        lines = [b"CONNECT ", json.dumps(options).encode(), _END]
        lines += [b"SUB %s %s\r\n" % (subject, sid) for sid, subject in self._subjects.items()]
        connection.write(b"".join([*lines, b"PING\r\n"]))

    def _up(self, connection: _Connection) -> None:
        self._broken.clear()
        if connection.transport is None or connection.transport.is_closing():
            self._broken.set()
            return
        self._connection = connection
        self._unserved_since = None
        self.reconnects += 1
        self.last_error = ""
        self.writable.set()
        self._established.set()
        _call_all(self.on_up)

    async def _watch(self, connection: _Connection) -> None:
        """Returns when the connection is gone; a peer that misses two pings is as good as gone."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._ping_interval_s):
                    await self._broken.wait()
            if self._broken.is_set():
                return
            if connection.unanswered_pings >= _MISSED_PINGS and connection.transport is not None:
                logger.warning("the bus does not answer: connecting anew")
                connection.transport.abort()
            else:
                connection.unanswered_pings += 1
                connection.write(b"PING\r\n")

    def lost(self, connection: _Connection) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        self._established.clear()
        self._broken.set()
        self.writable.set()  # whoever waits to write must learn that there is nothing to write to
        expected, self._expected = self._expected, {}
        for each in expected.values():
            _fail(each.future, "the connection to the bus was lost")
        _call_all(self.on_down)

    def refused(self, reason: str) -> None:
        """-ERR carries no request: the subject in it tells whose."""
        self.last_error = reason
        logger.warning("the bus says: %s", reason)
        if reason.startswith("Permissions Violation for Publish"):
            subject = reason.partition('"')[2].partition('"')[0]
            for each in self._expected.values():
                if subject in each.subjects():
                    _fail(each.future, f"the bus refused: {reason}")

    # subscriptions

    def subscribe(self, subject: str, deliver: Deliver) -> bytes:
        """Stands over reconnects. Gives the id for `unsubscribe`."""
        self._last_sid += 1
        sid = b"%d" % self._last_sid
        self.routes[sid] = deliver
        self._subjects[sid] = subject.encode()
        self.write(b"SUB %s %s\r\n" % (self._subjects[sid], sid))
        return sid

    def unsubscribe(self, sid: bytes) -> None:
        if self.routes.pop(sid, None) is not None:
            del self._subjects[sid]
            self.write(b"UNSUB %s\r\n" % sid)

    # writing

    def write(self, data: bytes) -> None:
        """Dropped while disconnected."""
        if self._connection is not None:
            self._connection.write(data)

    async def publish(self, messages: Sequence[Message], timeout_s: float) -> None:
        """One write, then as many acknowledgements as messages. Raises BusOutage, or Bug for one that is too large."""
        token, lines = self._new_token(), []
        reply = self._reply(token).encode()
        for message, headers in zip(messages, self._chained(messages), strict=True):
            body = message.body
            before = len(headers) + _FRAME_BYTES
            total = before + len(body)
            if total > self.max_payload_bytes:
                raise _too_large(message, self.max_payload_bytes)
            subject = message.subject.encode()
            lines.append(b"HPUB %s %s %d %d\r\nNATS/1.0\r\n%s\r\n%s\r\n" % (subject, reply, before, total, headers, body))
        await self._clear_to_write(timeout_s)
        future = self._expect(token, len(messages), lambda: {message.subject for message in messages})
        self.write(b"".join(lines))
        await self._within(token, future, timeout_s, f"{len(messages)} event(s) to be acknowledged")

    async def request(self, message: Message, timeout_s: float, *, many: bool = False) -> list[Answer]:
        """One answer; with `many` all of them up to and including the first that is a status. Raises BusOutage."""
        if len(message.headers) + len(message.body) + _FRAME_BYTES > self.max_payload_bytes:
            raise _too_large(message, self.max_payload_bytes)
        await self._clear_to_write(timeout_s)
        token = self._new_token()
        started = asyncio.get_running_loop().time()
        future = self._expect(token, -1 if many else 0, lambda: {message.subject})
        self.write(frame(message, self._reply(token)))
        answers = await self._within(token, future, timeout_s, f"an answer on {message.subject}")
        if answers[-1].status == 503:
            self.not_served(started)
            raise BusOutage(
                f"nobody on the bus answers {message.subject}",
                hint="has the bus been provisioned for this service? `atoll up` does it",
            )
        return answers

    def _chained(self, messages: Sequence[Message]) -> Iterable[bytes]:
        """The headers of a batch. Among several servers the leader may change in its middle: what was sent to the old one is
        lost, and the new one would store what comes after. So each is stored only if the one before it is the last of its
        stream. A stream's subjects begin with a word of its own.
        """
        last: dict[str, bytes] = {}
        for message in messages:
            word = message.subject.partition(".")[0]
            headers = message.headers
            if self.clustered and word in last:
                headers += b"Nats-Expected-Last-Msg-Id: %s\r\n" % last[word]
            fits = len(headers) + len(message.body) + _FRAME_BYTES <= self.max_payload_bytes
            yield headers if fits else message.headers
            if id := _id(message.headers):
                last[word] = id
            else:
                last.pop(word, None)

    def not_served(self, since: float) -> None:
        """A server that is cut off from the others greets and answers pings, but there is no JetStream behind it. Whoever has
        asked in vain for a while tries another server; a leader that is elected meanwhile is one to whom it leads, too.
        """
        self._unserved_since = min(self._unserved_since or since, since)
        connection = self._connection
        if connection is None or connection.transport is None or not self._servers.several:
            return
        if asyncio.get_running_loop().time() - self._unserved_since > _PATIENCE_S:
            logger.warning("%s: this server of the bus serves nothing: trying another", self.name)
            connection.transport.abort()
            self._unserved_since = None

    async def _clear_to_write(self, timeout_s: float) -> None:
        if not self.writable.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self.writable.wait()
            except TimeoutError:
                raise BusOutage(f"the bus took nothing for {timeout_s:g} s") from None
        if self._connection is None:
            raise BusOutage(f"not connected to the bus{': ' if self.last_error else ''}{self.last_error}")

    # answers

    def _new_token(self) -> bytes:
        self._last_token += 1
        return b"%d" % self._last_token

    def _reply(self, token: bytes) -> str:
        return f"{self.inbox}.{token.decode()}"

    def _expect(self, token: bytes, left: int, subjects: Callable[[], set[str]]) -> asyncio.Future[list[Answer]]:
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._expected[token] = _Expected(future, left, subjects)
        return future

    def _answered(self, subject: bytes, _reply: bytes, headers: bytes, body: bytes) -> None:
        expected = self._expected.get(subject[subject.rfind(b".") + 1 :])
        if expected is None:
            return
        if expected.left <= 0:
            expected.answers.append(Answer(headers, body))
            if not expected.left or status(headers):
                _fulfil(expected)
        elif headers or b'"seq"' not in body or b'"error"' in body:  # only JetStream says where it has stored something
            _fail(expected.future, _refusal(headers, body))
        elif expected.left == 1:
            _fulfil(expected)
        else:
            expected.left -= 1

    async def _within(self, token: bytes, future: asyncio.Future[list[Answer]], timeout_s: float, what: str) -> list[Answer]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        timer = loop.call_later(timeout_s, _fail, future, f"waited {timeout_s:g} s for {what}")
        try:
            answers = await future
            self._unserved_since = None
            return answers
        except BusOutage:
            if token in self._expected and self.connected:  # not lost with its connection
                self.not_served(started)
            raise
        finally:
            timer.cancel()
            self._expected.pop(token, None)


def frame(message: Message, reply: str = "") -> bytes:
    """One message as the bytes of PUB or HPUB."""
    subject, body = message.subject.encode(), message.body
    answer = f"{reply} ".encode() if reply else b""
    if not message.headers:
        return b"PUB %s %s%d\r\n%s\r\n" % (subject, answer, len(body), body)
    block = b"%s%s\r\n" % (_VERSION_LINE, message.headers)
    return b"HPUB %s %s%d %d\r\n%s%s\r\n" % (subject, answer, len(block), len(block) + len(body), block, body)


def lines(headers: bytes) -> bytes:
    """The header lines in a header block, without version line and closing blank line."""
    return headers[_VERSION_BYTES:-2]


def _refusal(headers: bytes, body: bytes) -> str:
    if headers:
        return "no stream takes this subject" if status(headers) == 503 else headers.decode(errors="replace").strip()
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"what answers is no stream: {body[:80].decode(errors='replace')}"
    return f"the bus refused: {error.get('description', error)} ({error.get('err_code', error.get('code'))})"


def _id(headers: bytes) -> bytes:
    """`Nats-Msg-Id` of header lines; b"" without one."""
    start = headers.find(_MESSAGE_ID)
    return headers[start + len(_MESSAGE_ID) : headers.find(_END, start)].strip() if start >= 0 else b""


def _too_large(message: Message, limit_bytes: int) -> Bug:
    size_bytes = len(message.headers) + len(message.body) + _FRAME_BYTES
    return Bug(
        f"a message of {size_bytes} bytes for {message.subject} is larger than the {limit_bytes} bytes the bus takes",
        hint="publish a reference to the data instead of the data",
    )


def _fulfil(expected: _Expected) -> None:
    if not expected.future.done():
        expected.future.set_result(expected.answers)


def _fail(future: asyncio.Future[list[Answer]], reason: str) -> None:
    if not future.done():
        future.set_exception(BusOutage(reason))


def _call_all(callbacks: list[Callable[[], None]]) -> None:
    for callback in list(callbacks):
        try:
            callback()
        except Exception:
            logger.exception("a callback of the bus failed")
