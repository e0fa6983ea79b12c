"""`Idempotency-Key`: a request that is sent again is answered as before, and its effect happens once.

The answer is kept in the transaction of the effect: there is never the one without the other, whatever dies when. A key
belongs to one operation and one caller. What raises keeps nothing, because nothing was done: its key is free again.
(draft-ietf-httpapi-idempotency-key-header-07)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.database.ports import Journal, Kept, KeyInUse
from atoll.errors import Bug, Refused
from atoll.service.answers import Answer
from atoll.service.arguments import From
from atoll.service.binding import cookies_of
from atoll.service.operations import Operation

if TYPE_CHECKING:
    from atoll.service.calls import Call

__all__ = ["ANSWER_LIMIT_BYTES", "HEADER", "KEY_LIMIT_CHARACTERS", "Claim", "Repeats"]

HEADER = "Idempotency-Key"
KEY_LIMIT_CHARACTERS = 255
ANSWER_LIMIT_BYTES = 1 << 20
_NAME = b"idempotency-key"
_REPLAYED = (b"idempotency-replayed", b"true")
_VISIBLE = range(0x21, 0x7F)
# What differs between two attempts at the same request.
_OF_THE_ATTEMPT = frozenset(
    ("x-request-id", "traceparent", "tracestate", "baggage", "date", "x-forwarded-for", "x-forwarded-proto", "idempotency-key")
)


class Repeats:
    """The keys of one operation. `in_hand` are the ids that this replica works on."""

    def __init__(self, operation: Operation, journal: Journal, in_hand: set[str]) -> None:
        self.operation = operation.id
        self.journal = journal
        self.in_hand = in_hand
        self.required = operation.idempotency_key == "required"
        self.headers = tuple(name for name in operation.names(From.HEADER) if name not in _OF_THE_ATTEMPT)
        self.cookies = operation.names(From.COOKIE)

    def claim(self, call: Call) -> Claim | None:
        """What `call`'s key stands for, None without a key. Raises Refused: it is missing, or is none."""
        found = [value for name, value in call.scope["headers"] if name == _NAME]
        if not found:
            if self.required:
                hint = f"send {HEADER}: a new random value for each thing to be done, the same one at each attempt"
                raise Refused(400, "idempotency_key_missing", f"this operation needs the header {HEADER}", hint=hint)
            return None
        return Claim(self, call, _key(found))


class Claim:
    """One request with its key."""

    def __init__(self, repeats: Repeats, call: Call, key: bytes) -> None:
        who = call.principal.id if call.principal is not None else ""
        self._repeats = repeats
        self._call = call
        self._id = _digest((repeats.operation.encode(), who.encode(), key)).hex()

    @contextmanager
    def in_hand(self) -> Iterator[None]:
        """While this replica works on it. Raises Refused (409) when somebody does already, inside too."""
        ids = self._repeats.in_hand
        if self._id in ids:
            raise _in_use()
        ids.add(self._id)
        try:
            yield
        except KeyInUse:
            raise _in_use() from None
        finally:
            ids.discard(self._id)

    async def begin(self, tx: Any) -> Answer | None:
        """What the same request was answered before, None when it is the first. Raises KeyInUse, Refused (422)."""
        kept = await self._repeats.journal.claim(tx, self._id)
        if kept is None:
            return None
        if kept.fingerprint != self._fingerprint():
            raise Refused(
                422,
                "idempotency_key_reused",
                f"this {HEADER} was used for another request",
                hint="a new thing to be done needs a new key; an attempt at the same thing is the same to the byte",
            )
        return Answer(kept.status, kept.body, [*_read_headers(kept.headers), _REPLAYED])

    async def keep(self, tx: Any, answer: Answer) -> None:
        """Part of the transaction. Raises KeyInUse, Bug when the answer can't be kept."""
        plain = _plain(answer)
        if len(plain.body) > ANSWER_LIMIT_BYTES:
            raise _unkept(f"is larger than {ANSWER_LIMIT_BYTES:,} bytes")
        kept = Kept(self._fingerprint(), plain.status, _write_headers(plain.headers), plain.body)
        await self._repeats.journal.keep(tx, self._id, kept)

    def _fingerprint(self) -> bytes:
        """Of all that the handler is told by the caller."""
        scope, headers = self._call.scope, self._call.headers
        told = [headers.get(name, "").encode("latin-1") for name in self._repeats.headers]
        if self._repeats.cookies:
            cookies = cookies_of(self._call)
            told += ["".join(cookies.get(name, ())).encode("latin-1") for name in self._repeats.cookies]
        path = scope.get("raw_path") or scope["path"].encode()
        return _digest((scope["method"].encode(), path, scope.get("query_string", b""), self._call.body, *told))


def _key(values: list[bytes]) -> bytes:
    """One key, bare or as the draft writes it, in quotes. Raises Refused."""
    (value, *more) = values
    key = value[1:-1] if len(value) >= 2 and value[:1] == value[-1:] == b'"' else value
    if more or not 1 <= len(key) <= KEY_LIMIT_CHARACTERS or not all(byte in _VISIBLE for byte in key):
        raise Refused(
            400,
            "idempotency_key_malformed",
            f"{HEADER} is one value of 1 to {KEY_LIMIT_CHARACTERS} visible ASCII characters",
            hint="a UUID is a good one",
        )
    return key


def _digest(parts: Iterable[bytes]) -> bytes:
    """Of the parts, each with its length before it, so that no two lists of parts are the same text."""
    found = hashlib.blake2b(digest_size=32)
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.digest()


def _plain(answer: Answer) -> Answer:
    """A Response as status, headers and body. Raises Bug for one that has no body yet."""
    response: Any = answer.response
    if response is None:
        return answer
    body, headers = getattr(response, "body", None), getattr(response, "raw_headers", None)
    if not isinstance(body, bytes) or headers is None:
        raise _unkept(f"is a {type(response).__name__}")
    if any(b"\n" in part or b"\r" in part for pair in headers for part in pair):
        raise Bug("a header of a response has a line break in it")
    return Answer(response.status_code, body, [pair for pair in headers if pair[0] != b"content-length"])


def _write_headers(headers: list[tuple[bytes, bytes]]) -> bytes:
    return msgspec.json.encode([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])


def _read_headers(stored: bytes) -> list[tuple[bytes, bytes]]:
    pairs = msgspec.json.decode(stored, type=list[tuple[str, str]])
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


def _unkept(why: str) -> Bug:
    return Bug(
        f"an answer to a request with {HEADER} can't be kept: it {why}",
        hint='idempotency_key="ignored" at the operation, or a smaller, plain answer',
    )


def _in_use() -> Refused:
    return Refused(
        409,
        "idempotency_key_in_use",
        f"a request with this {HEADER} is being answered right now",
        hint="send it again in a moment",
        retry_after_s=1,
    )
