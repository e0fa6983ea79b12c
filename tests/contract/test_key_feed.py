"""How a service process learns the keys: from its disk, from a snapshot of the bus, and live."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from atoll.bus.memory import Broker
from atoll.bus.ports import Message
from atoll.service.keys import KeyFeed
from atoll.tokens import KeySet, TokenRefused, Verifier
from tests.support.tokens import Mint
from tests.support.waiting import until

OLD, NEW = Mint(), Mint()
BOTH = KeySet.of([OLD.key.public, NEW.key.public], version=2)


class World:
    """Auth's stream, and one process that listens to it."""

    def __init__(self, folder: Path) -> None:
        self.broker = Broker()
        self.broker.add_stream("keys", "keys.>")
        self.path = folder / "state" / "keys.json"

    def publish(self, body: bytes) -> None:
        self.broker.publish(Message("keys.set", b"", body))

    @asynccontextmanager
    async def process(self) -> AsyncIterator[Verifier]:
        """A start: the feed is loaded, then connected."""
        verifier = Verifier(OLD.issuer, OLD.audience, KeySet())
        feed, bus = KeyFeed(verifier, self.path), self.broker.bus()
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
        await until(lambda: not accepts(verifier, OLD))
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
