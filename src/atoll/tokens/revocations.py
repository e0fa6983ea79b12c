"""Sessions whose tokens are refused although they have not expired: what auth publishes and everybody keeps.

Published in shards, so that ending one session sends a sixty-fourth of the list. A shard is replaced as a whole by a newer one
and never merged; a session is in it until the last token of it has expired, so the list is as long as auth's tokens live.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from atoll.errors import Malformed
from atoll.tokens.files import save

__all__ = ["SHARDS", "Revocations", "RevokedShard", "shard_of"]

SHARDS = 64
T = TypeVar("T")


class RevokedShard(msgspec.Struct, frozen=True):
    """One part of the list. `sessions` has the epoch second after which each is no longer needed; `version` rises."""

    shard: Annotated[int, msgspec.Meta(ge=0, lt=SHARDS)]
    version: int
    sessions: dict[str, int]


class Revocations(msgspec.Struct, frozen=True):
    """All shards that are known."""

    shards: Mapping[int, RevokedShard] = {}

    @property
    def sessions(self) -> frozenset[str]:
        """Every session that was ended."""
        return frozenset(session for shard in self.shards.values() for session in shard.sessions)

    def received(self, body: bytes) -> Revocations:
        """After a message on `keys.revoked.<shard>`. An older one than the known changes nothing. Raises Malformed."""
        return self.updated(_decode(body, RevokedShard))

    def updated(self, *news: RevokedShard) -> Revocations:
        found = dict(self.shards)
        for one in news:
            if one.shard not in found or one.version >= found[one.shard].version:
                found[one.shard] = one
        return Revocations(found)

    def serialize(self) -> bytes:
        """For a disk of one's own."""
        return msgspec.json.encode([self.shards[number] for number in sorted(self.shards)], order="deterministic")

    @classmethod
    def parse(cls, body: bytes) -> Revocations:
        """The inverse of `serialize`. Raises Malformed."""
        return cls().updated(*_decode(body, list[RevokedShard]))

    @classmethod
    def load(cls, path: Path) -> Revocations:
        """What was saved at `path`; nothing when that can't be read."""
        try:
            return cls.parse(path.read_bytes())
        except (OSError, Malformed):
            return cls()

    def save(self, path: Path) -> None:
        save(path, self.serialize())


def shard_of(session: str) -> int:
    """The shard that a session is in, the same for ever and in every language: CRC-32 modulo the number of shards."""
    return zlib.crc32(session.encode()) % SHARDS


def _decode(body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type_)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise Malformed(f"this is not a list of ended sessions: {error}") from error
