"""Bytes on a socket: a client that sends exactly what it is told, and a replica that writes down exactly what reached it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

__all__ = ["Answer", "Recorder", "Seen", "answers", "exchange", "recorder"]

_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Answer:
    """One response. `closed` when the connection ended after it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "")


def exchange(port: int, sent: bytes, enough: int | None = None) -> list[Answer]:
    """Sends `sent` on a new connection, and reads so many answers, or all until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S) as connection:
        with suppress(ConnectionError):  # refused before all of it was sent; what it answered may still be there
            connection.sendall(sent)
        return list(answers(connection, enough))


def answers(connection: socket.socket, enough: int | None = None) -> Iterator[Answer]:
    """What comes on a connection, until there is enough or it ends. An answer like 100 is passed over."""
    stream, count = _Stream(connection), 0
    while enough is None or count < enough:
        head = stream.until(b"\r\n\r\n")
        if not head:
            return
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields if one)}
        status = int(line.split()[1])
        if status >= 200:
            yield Answer(status, headers, stream.body(headers))
            count += 1


class _Stream:
    """What is left of a connection. Ends like a closed one when it is reset."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = b""
        self.ended = False

    def until(self, mark: bytes) -> bytes:
        """All up to and with `mark`; empty at the end of the connection."""
        while mark not in self._left:
            if not self._more():
                return b""
        found, _, self._left = self._left.partition(mark)
        return found + mark

    def exactly(self, size: int) -> bytes:
        while len(self._left) < size and self._more():
            pass
        found, self._left = self._left[:size], self._left[size:]
        return found

    def body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            return b"".join(self._chunks())
        return self.exactly(int(headers.get("content-length", "0")))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.until(b"\r\n").strip() or b"0", 16):
            yield self.exactly(size)
            self.exactly(2)
        while self.until(b"\r\n") not in (b"\r\n", b""):
            continue

    def _more(self) -> bool:
        try:
            received = self._connection.recv(65_536)
        except ConnectionError:
            received = b""
        self._left += received
        self.ended = not received
        return bool(received)


@dataclass(frozen=True)
class Seen:
    """A request as it arrived. `head` is its bytes, `body` what its framing says; not `whole` when it was cut off."""

    head: bytes
    body: bytes
    whole: bool = True

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode("latin-1")

    @property
    def target(self) -> str:
        return self.head.split(b"\r\n", 1)[0].split(b" ")[1].decode("latin-1")

    def values(self, name: str) -> list[str]:
        """All lines of one header."""
        pairs = [line.partition(b":") for line in self.head.split(b"\r\n")[1:]]
        return [value.strip().decode("latin-1") for key, _, value in pairs if key.strip().lower() == name.encode()]


@dataclass
class Recorder:
    """A replica whose readiness is always good; `seen` is all it was asked otherwise, in order of arrival."""

    port: int
    seen: list[Seen] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def recorder() -> Iterator[Recorder]:
    """A replica in threads of this process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        state = Recorder(server.getsockname()[1])
        threading.Thread(target=_accept, args=(server, state), daemon=True).start()
        yield state
        server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, state: Recorder) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, state), daemon=True).start()


def _serve(connection: socket.socket, state: Recorder) -> None:
    with connection:
        stream = _Stream(connection)
        while head := stream.until(b"\r\n\r\n"):
            request = Seen(head, b"")
            framing = {name: ",".join(request.values(name)) for name in ("transfer-encoding", "content-length")}
            body = stream.body({name: value for name, value in framing.items() if value})
            request = Seen(head, body, whole=not stream.ended)
            if not request.target.startswith("/health/"):
                state.seen.append(request)
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            except OSError:
                return
