"""REST caching by declaration, `cache="60s"`: `Cache-Control`, `ETag` and 304 for clients, and answers kept in this process.

Two questions, answered from the signature alone. What may others keep? Nothing that depends on who calls, so such an answer
is `private` (RFC 9111 §5.2.2.7). And what is the same question? All that the handler can see: path, the query, headers and
cookies that it declares, and the very token, if it may ask who calls. That is an answer's key here, so nobody is ever given
what the handler could have made differently for them. Token and scope are checked before, at every request.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from atoll.service.answers import Answer
from atoll.service.arguments import From
from atoll.service.binding import cookies_of
from atoll.service.operations import Operation

if TYPE_CHECKING:
    from atoll.service.calls import Call

__all__ = ["ENTRIES", "SIZE_BYTES", "Answers", "Cached", "control_of", "vary_of"]

ENTRIES = 4096
SIZE_BYTES = 16 << 20
_OVERHEAD_BYTES = 512

Key = tuple[object, ...]
Headers = list[tuple[bytes, bytes]]


def control_of(operation: Operation) -> str:
    """Its `Cache-Control`."""
    who = "private" if operation.private else "public"
    return f"{who}, max-age={operation.cache_s}" if operation.cache_s else f"{who}, no-cache"


def vary_of(operation: Operation) -> str:
    """Its `Vary`: the headers that its answer depends on. To the gateway's clients an API key is a credential like a token."""
    names = set(operation.names(From.HEADER))
    if not operation.public or operation.sees_caller:
        names |= {"authorization", "x-api-key"}
    if operation.one(From.COOKIE) is not None:
        names.add("cookie")
    return ", ".join(sorted(names))


class Entry(msgspec.Struct, frozen=True):
    """An answer that was 200, with the headers that a 304 repeats, and when it was made."""

    body: bytes
    headers: Headers
    etag: bytes
    validators: Headers
    made_at: float
    size_bytes: int


class Answers:
    """The answers that one process keeps, the longest unused given up first. One that is being made is made once."""

    def __init__(self, entries: int = ENTRIES, size_bytes: int = SIZE_BYTES) -> None:
        self.coming: dict[Key, asyncio.Future[Entry | None]] = {}
        self.size_bytes = 0
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._entries_max = entries
        self._size_max = size_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Key, not_before: float) -> Entry | None:
        """The one of `key`, if it was made after `not_before`."""
        found = self._entries.get(key)
        if found is None:
            return None
        if found.made_at <= not_before:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return found

    def keep(self, key: Key, entry: Entry) -> None:
        """One that would take more than an eighth of the room is not kept."""
        if entry.size_bytes > self._size_max // 8:
            return
        self._drop(key)
        self._entries[key] = entry
        self.size_bytes += entry.size_bytes
        while self.size_bytes > self._size_max or len(self._entries) > self._entries_max:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        self._entries.clear()
        self.size_bytes = 0

    def _drop(self, key: Key) -> None:
        if (gone := self._entries.pop(key, None)) is not None:
            self.size_bytes -= gone.size_bytes


class Cached:
    """One operation whose answers may be kept."""

    def __init__(self, operation: Operation, answers: Answers) -> None:
        self._id = operation.id
        self._answers = answers
        self._max_age_s = operation.cache_s or 0
        self._query = operation.names(From.QUERY)
        self._whole_query = any(one.whole for one in operation.arguments if one.source is From.QUERY)
        self._headers = operation.names(From.HEADER)
        self._cookies = operation.names(From.COOKIE)
        self._sees_caller = operation.sees_caller
        self._fixed: Headers = [(b"cache-control", control_of(operation).encode())]
        if vary := vary_of(operation):
            self._fixed.append((b"vary", vary.encode()))

    async def answer(self, call: Call, make: Callable[[], Awaitable[Answer]]) -> Answer:
        """A kept answer, or the one that `make` gives; 304 when the client has it already."""
        if not self._max_age_s:
            return self._first(call, *await self._made(call, make, None))
        key = self._key(call)
        now = time.monotonic()
        entry = self._answers.find(key, now - self._max_age_s)
        if entry is not None:
            return self._again(call, entry, now)
        coming = self._answers.coming.get(key)
        if coming is None:
            return self._first(call, *await self._lead(key, call, make))
        entry = await asyncio.shield(coming)
        if entry is not None:
            return self._again(call, entry, time.monotonic())
        return self._first(call, *await self._made(call, make, key))

    async def _lead(self, key: Key, call: Call, make: Callable[[], Awaitable[Answer]]) -> tuple[Answer, Entry | None]:
        """Makes it for all who ask meanwhile. When that fails, each of them makes its own."""
        coming: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()
        self._answers.coming[key] = coming
        entry: Entry | None = None
        try:
            answer, entry = await self._made(call, make, key)
            return answer, entry
        finally:
            del self._answers.coming[key]
            coming.set_result(entry)

    async def _made(self, call: Call, make: Callable[[], Awaitable[Answer]], key: Key | None) -> tuple[Answer, Entry | None]:
        """An answer is as old as the moment its making began: what it tells was read after that."""
        began = time.monotonic()
        answer = await make()
        if answer.response is not None or answer.status != 200:
            return answer, None
        etag = b'"%s"' % hashlib.blake2b(answer.body, digest_size=12).hexdigest().encode()
        validators = [(b"etag", etag), *self._fixed]
        size_bytes = len(answer.body) + len(call.scope.get("query_string", b"")) + len(call.scope["path"]) + _OVERHEAD_BYTES
        entry = Entry(answer.body, [*answer.headers, *validators], etag, validators, began, size_bytes)
        if key is not None:
            self._answers.keep(key, entry)
        return answer, entry

    def _first(self, call: Call, answer: Answer, entry: Entry | None) -> Answer:
        if entry is None:
            return answer
        if (known := _known(call, entry.etag)) is not None:
            return Answer(304, b"", _with_tag(entry, known))
        return Answer(200, entry.body, entry.headers)

    def _again(self, call: Call, entry: Entry, now: float) -> Answer:
        """RFC 9111 §5.1: `Age` tells that and for how long it was kept."""
        age = (b"age", b"%d" % (now - entry.made_at))
        if (known := _known(call, entry.etag)) is not None:
            return Answer(304, b"", [*_with_tag(entry, known), age])
        return Answer(200, entry.body, [*entry.headers, age])

    def _key(self, call: Call) -> Key:
        """Everything that the handler can see of the request."""
        parts: list[object] = [self._id, call.path]
        if call.scope.get("query_string"):
            query = call.query
            names = sorted(query) if self._whole_query else [name for name in self._query if name in query]
            parts.append(tuple([(name, tuple(query[name])) for name in names]))
        else:
            parts.append(())
        if self._headers:
            parts.append(tuple([call.headers.get(name) for name in self._headers]))
        if self._cookies:
            cookies = cookies_of(call)
            parts.append(tuple([tuple(cookies.get(name, ())) for name in self._cookies]))
        if self._sees_caller:
            parts.append(hashlib.sha256(_header(call, b"authorization")).digest())
        return tuple(parts)


def _header(call: Call, wanted: bytes) -> bytes:
    for name, value in call.scope["headers"]:
        if name == wanted:
            return bytes(value)
    return b""


def _with_tag(entry: Entry, tag: bytes) -> Headers:
    return [(name, tag if name == b"etag" else value) for name, value in entry.validators]


def _known(call: Call, etag: bytes) -> bytes | None:
    """The tag under which the client has it by `If-None-Match`, None when it has not. Weak comparison, RFC 9110 §13.1.2:
    compressing on the way makes it weak, and a 304 with the strong one would then update nothing (RFC 9111 §4.3.4).
    """
    told = [value for name, value in call.scope["headers"] if name == b"if-none-match"]
    if not told:
        return None
    tags = [one.strip() for one in b",".join(told).split(b",")]
    if etag in tags or b"*" in tags:
        return etag
    return next((one for one in tags if one == b"W/" + etag), None)
