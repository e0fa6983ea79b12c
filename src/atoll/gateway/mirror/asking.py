"""Asks a replica of the second service what the first one was asked. One connection a request: samples are few."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace

import httptools

from atoll.gateway.ir import Endpoint
from atoll.gateway.mirror.samples import LIMIT_BYTES, Answer, Request

__all__ = ["Failed", "ask", "copied"]

_PATIENCE_S = 15.0
_CONNECT_S = 1.0
_CHUNK = 65_536
# Belong to one connection, are set anew, or lead into the client's trace, which tells of what was done for the client.
_NOT_COPIED = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"}
    | {"content-length", "accept-encoding", "traceparent", "tracestate", "b3", "baggage"}
)
MARK = "x-atoll-mirror"
"""Tells the second service which mirror asks. A client's own header of this name never gets through."""


class Failed(Exception):
    """The second service did not answer; the message says how."""


def copied(request: Request, path: str, mirror: str) -> Request:
    """The request as the second service gets it, answers packed in a way that can be unpacked again."""
    encoding = "gzip" if "gzip" in request.header("accept-encoding") else "identity"
    headers = [pair for pair in request.headers if pair[0] not in _NOT_COPIED]
    own = (("accept-encoding", encoding), ("traceparent", _trace()), (MARK, mirror))
    return replace(request, path=path, headers=(*headers, *own))


def _trace() -> str:
    """One of its own, not recorded. Without any, a service would name its trace by the request id, as the first one did."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"


async def ask(replicas: Sequence[Endpoint], request: Request) -> Answer:
    """From the first of `replicas` that takes the connection. Raises Failed."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await _connected(replicas)
            try:
                writer.write(_written(request))
                return await _answer(reader, request.method)
            finally:
                writer.close()
    except TimeoutError:
        raise Failed(f"no answer within {_PATIENCE_S:g} s") from None
    except (OSError, httptools.HttpParserError) as error:
        raise Failed(f"no answer: {type(error).__name__}") from None


async def _connected(replicas: Sequence[Endpoint]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    for one in replicas:
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await asyncio.open_connection(one.host, one.port)
        except (OSError, TimeoutError):
            continue
    raise Failed("no replica can be reached")


def _written(request: Request) -> bytes:
    length = [("content-length", str(len(request.body)))] if request.body or request.method not in ("GET", "HEAD") else []
    lines = [f"{request.method} {request.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in (*request.headers, *length, ("connection", "close"))]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + request.body


async def _answer(reader: asyncio.StreamReader, method: str) -> Answer:
    reading = _Reading(bodiless=method == "HEAD")
    parser = httptools.HttpResponseParser(reading)
    reading.parser = parser
    while not reading.complete and not reading.too_large:
        chunk = await reader.read(_CHUNK)
        if not chunk:
            break
        parser.feed_data(chunk)
    if not reading.ended:
        raise Failed("the answer was cut off")
    return reading.answer()


class _Reading:
    """httptools' callbacks. Interim answers (1xx) are passed over."""

    parser: httptools.HttpResponseParser

    def __init__(self, *, bodiless: bool) -> None:
        self._bodiless = bodiless
        self._headers: list[tuple[str, str]] = []
        self._body = bytearray()
        self._status = 0
        self.complete = False
        self.too_large = False

    @property
    def ended(self) -> bool:
        """An answer without a length ends with its connection."""
        names = {name for name, _ in self._headers}
        return self.complete or self.too_large or (self._status >= 200 and not names & {"content-length", "transfer-encoding"})

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._status = self.parser.get_status_code()
        self.complete = self._bodiless and self._status >= 200

    def on_body(self, body: bytes) -> None:
        self.too_large = self.too_large or len(self._body) + len(body) > LIMIT_BYTES
        if not self.too_large:
            self._body += body

    def on_message_complete(self) -> None:
        if self._status < 200:
            self._headers, self._status = [], 0
        else:
            self.complete = True

    def answer(self) -> Answer:
        if self.too_large:
            return Answer(self._status, tuple(self._headers), fault="too_large")
        return Answer(self._status, tuple(self._headers), bytes(self._body)).unpacked()
