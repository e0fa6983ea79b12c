"""How a service process learns the keys: from its disk, from a snapshot of the bus, and live."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from atoll.bus.memory import Broker
from atoll.bus.ports import Message
from atoll.service.keys import KeyFeed
from atoll.tokens import KeySet, TokenRefused, Verifier
from atoll.tokens.providers import Providers
from atoll.tokens.revocations import RevokedShard, shard_of
from tests.support.foreign import ForeignMint
from tests.support.tokens import Mint
from tests.support.waiting import until

OLD, NEW = Mint(), Mint()
BOTH = KeySet.of([OLD.key.public, NEW.key.public], version=2)


class World:
    """Auth's stream, and one process that listens to it."""

    def __init__(self, folder: Path) -> None:
        self.broker = Broker()
        self.broker.add_stream("keys", "keys.>")
        self.folder = folder / "state"
        self.path = self.folder / "keys.json"

    def publish(self, body: bytes) -> None:
        self.broker.publish(Message("keys.set", b"", body))

    @asynccontextmanager
    async def process(self) -> AsyncIterator[Verifier]:
        """A start: the feed is loaded, then connected."""
        verifier = Verifier(OLD.issuer, OLD.audience, KeySet())
        feed, bus = KeyFeed(verifier, self.folder), self.broker.bus()
        feed.load()
        await bus.start()
        feed.start(bus)
        try:
            yield verifier
        finally:
            feed.stop()
            await bus.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def accepts(verifier: Verifier, mint: Mint) -> bool:
    try:
        verifier.verify(mint.token(), time.time())
    except TokenRefused:
        return False
    return True


async def test_a_process_that_starts_later_takes_the_last_set(world: World) -> None:
    world.publish(KeySet.of([OLD.key.public], version=1).serialize())
    world.publish(BOTH.serialize())
    async with world.process() as verifier:
        await until(lambda: verifier.keys == BOTH)
        assert accepts(verifier, NEW)


async def test_a_new_key_and_a_withdrawn_one_arrive_live(world: World) -> None:
    world.publish(KeySet.of([OLD.key.public], version=1).serialize())
    async with world.process() as verifier:
        await until(lambda: verifier.keys.usable)
        assert not accepts(verifier, NEW)
        world.publish(BOTH.serialize())
        await until(lambda: accepts(verifier, NEW))
        assert accepts(verifier, OLD)
        world.publish(KeySet.of([NEW.key.public], version=3).serialize())
        await until(lambda: verifier.keys.usable and not accepts(verifier, OLD))
        assert accepts(verifier, NEW)


async def test_a_process_starts_without_the_bus_on_the_set_of_its_disk(world: World) -> None:
    world.publish(BOTH.serialize())
    async with world.process() as verifier:
        await until(lambda: verifier.keys.usable)
    world.broker.stop()
    async with world.process() as verifier:
        assert accepts(verifier, NEW)


async def test_what_was_published_while_the_bus_was_away_is_known_after_it_is_back(world: World) -> None:
    async with world.process() as verifier:
        world.broker.stop()
        world.publish(BOTH.serialize())
        world.broker.start()
        await until(lambda: verifier.keys == BOTH)


async def test_an_older_set_that_arrives_late_changes_nothing(world: World) -> None:
    world.publish(BOTH.serialize())
    async with world.process() as verifier:
        await until(lambda: verifier.keys == BOTH)
        world.publish(KeySet.of([OLD.key.public], version=1).serialize())
        world.publish(KeySet.of([NEW.key.public], version=3).serialize())
        await until(lambda: verifier.keys.version == 3)
        assert KeySet.load(world.path) == verifier.keys


async def test_what_is_no_key_set_changes_nothing(world: World) -> None:
    world.publish(BOTH.serialize())
    async with world.process() as verifier:
        await until(lambda: verifier.keys == BOTH)
        for body in (b"", b"{}", b'{"keys": [', b"\xff"):
            world.publish(body)
        assert verifier.keys == BOTH
        assert KeySet.load(world.path) == BOTH


# ended sessions


def ended(session: str, version: int = 1) -> Message:
    shard = shard_of(session)
    return Message(f"keys.revoked.{shard}", b"", msgspec.json.encode(RevokedShard(shard, version, {session: 9_999_999_999})))


async def test_an_ended_session_is_refused_live_and_from_the_snapshot_and_its_neighbours_are_not(world: World) -> None:
    world.publish(OLD.key_set.serialize())
    async with world.process() as verifier:
        await until(lambda: verifier.keys.usable and accepts(verifier, OLD))
        world.broker.publish(ended("session-1"))
        await until(lambda: verifier.keys.usable and not accepts(verifier, OLD))
        assert verifier.verify(OLD.token(sid="session-2"), time.time())
    (world.folder / "revocations.json").unlink()
    async with world.process() as verifier:
        await until(lambda: verifier.keys.usable and not accepts(verifier, OLD))


async def test_an_ended_session_stays_ended_for_a_process_that_starts_without_the_bus(world: World) -> None:
    world.publish(OLD.key_set.serialize())
    world.broker.publish(ended("session-1"))
    async with world.process() as verifier:
        await until(lambda: verifier.keys.usable and not accepts(verifier, OLD))
    world.broker.stop()
    async with world.process() as verifier:
        assert not accepts(verifier, OLD)
        assert verifier.verify(OLD.token(sid="session-2"), time.time())


async def test_a_session_that_ended_while_the_bus_was_away_is_refused_after_it_is_back(world: World) -> None:
    world.publish(OLD.key_set.serialize())
    async with world.process() as verifier:
        await until(lambda: verifier.keys.usable and accepts(verifier, OLD))
        world.broker.stop()
        world.broker.publish(ended("session-1"))
        world.broker.start()
        await until(lambda: verifier.keys.usable and not accepts(verifier, OLD))


async def test_an_older_list_or_one_that_cannot_be_read_brings_nobody_back(world: World) -> None:
    world.publish(OLD.key_set.serialize())
    async with world.process() as verifier:
        world.broker.publish(ended("session-1", version=2))
        await until(lambda: verifier.keys.usable and not accepts(verifier, OLD))
        shard = shard_of("session-1")
        older = msgspec.json.encode(RevokedShard(shard, 1, {}))
        for body in (older, b"", b"{}", b'{"shard": 64, "version": 9, "sessions": {}}', b"\xff"):
            world.broker.publish(Message(f"keys.revoked.{shard}", b"", body))
        world.broker.publish(ended("session-2"))
        await until(lambda: not accepts_session(verifier, "session-2"))
        assert not accepts(verifier, OLD)


def accepts_session(verifier: Verifier, session: str) -> bool:
    try:
        verifier.verify(OLD.token(sid=session), time.time())
    except TokenRefused as error:
        return error.code != "token_revoked"
    return True


# other issuers


async def test_other_issuers_are_trusted_live_from_the_disk_and_no_longer_than_auth_says(world: World) -> None:
    corp = ForeignMint()
    trusted = Providers((corp.provider(),), version=1)
    world.publish(OLD.key_set.serialize())
    world.broker.publish(Message("keys.providers", b"", trusted.serialize()))
    async with world.process() as verifier:
        await until(lambda: verifier.providers == trusted)
        assert verifier.verify(corp.token(), time.time()).sub == "corp|ada"
    world.broker.stop()
    async with world.process() as verifier:
        assert verifier.verify(corp.token(), time.time())
        world.broker.start()
        world.broker.publish(Message("keys.providers", b"", Providers(version=2).serialize()))
        await until(lambda: not verifier.providers.providers)
        with pytest.raises(TokenRefused):
            verifier.verify(corp.token(), time.time())
