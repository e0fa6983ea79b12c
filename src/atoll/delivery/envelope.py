"""An event's envelope: CloudEvents 1.0 in binary mode as NATS headers, with W3C trace context.

Headers are built once, when the event is published into the outbox, and travel as ready wire lines from there on.
"""

from __future__ import annotations

import os
import time
import zlib
from datetime import UTC, datetime

import msgspec

from atoll.database.ports import OutboxRow

__all__ = ["Envelope", "age_s", "decode", "encode", "new_id"]


class Envelope(msgspec.Struct, frozen=True):
    """What travels beside an event's data. `type` is `<service>.<name>`, `time` RFC 3339."""

    id: str
    type: str
    source: str
    key: str
    time: str
    traceparent: str = ""


def new_id() -> str:
    """A UUIDv7 (RFC 9562 §5.7): ids of one moment lie beside each other in the inbox's index."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF000 << 64) | 0x7000 << 64
    value = value & ~(0xC000 << 48) | 0x8000 << 48
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def age_s(event_id: str) -> float:
    """How long ago an id of `new_id` was made; 0 for any other id."""
    if len(event_id) != 36 or event_id[14] != "7":
        return 0.0
    return max(0.0, time.time() - int(event_id[:8] + event_id[9:13], 16) / 1000)


def partition(key: str, partitions: int) -> int:
    """The partition of `key`, the same for ever and in every language: CRC-32 modulo the number of partitions."""
    return zlib.crc32(key.encode()) % partitions if partitions > 1 else 0


def encode(
    service: str, name: str, key: str, body: bytes, *, partitions: int = 1, subject: str = "", traceparent: str = ""
) -> OutboxRow:
    """The outbox row of one event. `subject` overrides the usual `event.<service>.<name>.<partition>`."""
    event_id = new_id()
    moment = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    trace = f"traceparent: {traceparent}\r\n" if traceparent else ""
    headers = (
        f"Nats-Msg-Id: {event_id}\r\nce-specversion: 1.0\r\nce-id: {event_id}\r\nce-type: {service}.{name}\r\n"
        f"ce-source: /{service}\r\nce-time: {moment}\r\nce-partitionkey: {_line(key)}\r\n"
        f"content-type: application/json\r\n{trace}"
    )
    return OutboxRow(
        id=event_id,
        subject=subject or f"event.{service}.{name}.{partition(key, partitions)}",
        key=key,
        headers=headers.encode(),
        body=body,
    )


def decode(headers: bytes) -> Envelope:
    """The envelope in wire lines. Raises ValueError when a CloudEvents attribute that must be there is not."""
    found = dict(line.split(": ", 1) for line in headers.decode().split("\r\n") if ": " in line)
    lower = {name.lower(): value for name, value in found.items()}
    try:
        return Envelope(
            id=lower["ce-id"],
            type=lower["ce-type"],
            source=lower["ce-source"],
            key=_unline(lower.get("ce-partitionkey", "")),
            time=lower.get("ce-time", ""),
            traceparent=lower.get("traceparent", ""),
        )
    except KeyError as missing:
        raise ValueError(f"not a CloudEvent in binary mode: no {missing.args[0]} header") from None


def _line(text: str) -> str:
    """A header value on one line: percent-encodes what would end it (CloudEvents HTTP binding §3.1.3.2)."""
    if text.isascii() and text.isprintable() and "%" not in text:
        return text
    return "".join(
        c if c.isascii() and c.isprintable() and c != "%" else "".join(f"%{b:02X}" for b in c.encode()) for c in text
    )


def _unline(text: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote

    return unquote(text)
