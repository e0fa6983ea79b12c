"""What Envoy captured: a request, its answer, and which mirror it is for. The format is that of `xds/capture.lua`."""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from atoll.errors import Malformed

__all__ = ["LIMIT_BYTES", "Answer", "Captured", "Headers", "Request", "parse"]

LIMIT_BYTES = 262_144
"""A body that is longer, packed or unpacked, is not compared."""

Headers = tuple[tuple[str, str], ...]
_GZIP_WINDOW = 31


@dataclass(frozen=True, slots=True)
class Request:
    """As the first service got it. `path` has the query; `fault` says why it can't be asked again."""

    method: str
    path: str
    headers: Headers
    body: bytes = b""
    fault: str = ""

    def header(self, name: str) -> str:
        return _header(self.headers, name)


@dataclass(frozen=True, slots=True)
class Answer:
    """Names of headers in lower case. `fault` says why it can't be compared."""

    status: int
    headers: Headers
    body: bytes = b""
    fault: str = ""

    def header(self, name: str) -> str:
        return _header(self.headers, name)

    def unpacked(self) -> Answer:
        """Without a content encoding, where that is one of those that every Python knows."""
        encoding = self.header("content-encoding").lower()
        if encoding in ("", "identity") or not self.body or self.fault:
            return self
        if encoding not in ("gzip", "x-gzip"):
            return replace(self, fault="encoded")
        decoder = zlib.decompressobj(wbits=_GZIP_WINDOW)
        try:
            body = decoder.decompress(self.body, LIMIT_BYTES + 1)
        except zlib.error:
            return replace(self, fault="encoded")
        return replace(self, body=body) if len(body) <= LIMIT_BYTES else replace(self, body=b"", fault="too_large")


@dataclass(frozen=True, slots=True)
class Captured:
    """One sample for the mirror of this name, the `number`th from `thread`."""

    mirror: str
    thread: str
    number: int
    request: Request
    answer: Answer


def parse(message: bytes) -> Captured:
    """Raises Malformed."""
    try:
        mirror, thread, number, request, headers, body, fault = _netstrings(message)
        asked, answered = _request(binascii.a2b_base64(request)), _answer(headers, body, fault.decode())
        return Captured(mirror.decode(), thread.decode(), int(number), asked, answered)
    except (ValueError, KeyError) as error:
        raise Malformed(f"this is not a sample: {error}") from None


def _request(message: bytes) -> Request:
    headers, body, fault = _netstrings(message)
    found = _headers(headers)
    pseudo = {name: value for name, value in found if name.startswith(":")}
    own = tuple(pair for pair in found if not pair[0].startswith(":"))
    return Request(pseudo[":method"], pseudo[":path"], (("host", pseudo[":authority"]), *own), body, fault.decode())


def _answer(headers: bytes, body: bytes, fault: str) -> Answer:
    found = _headers(headers)
    status = next(value for name, value in found if name == ":status")
    return Answer(int(status), tuple(pair for pair in found if not pair[0].startswith(":")), body, fault)


def _headers(row: bytes) -> Headers:
    words = [word.decode("latin-1") for word in _netstrings(row)]
    return tuple(zip(words[::2], words[1::2], strict=True))


def _netstrings(row: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(row):
        colon = row.index(b":", at)
        end = colon + 1 + int(row[at:colon])
        if end > len(row) or end <= colon:
            raise ValueError("it ends too soon")
        yield row[colon + 1 : end]
        at = end


def _header(headers: Headers, name: str) -> str:
    return ", ".join(value for known, value in headers if known == name)
