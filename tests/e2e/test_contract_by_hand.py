"""The contract on docs/reference/contract.md gives a program without atoll what the page says: any NATS client will do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Message
from atoll.delivery import envelope
from atoll.system.contract import Contract
from tests.support.contracts import contract
from tests.support.engines import ProvisionedBus, provisioned_bus
from tests.support.pages import DOCS, blocks
from tests.support.waiting import until

NEXT = "$JS.API.CONSUMER.MSG.NEXT.orders.ratings"


def contracts() -> dict[str, Contract]:
    (written,) = blocks(DOCS / "reference" / "contract.md", "json")
    ratings = Contract.parse(json.loads(written.text))
    listener = contract("listener", [], ["ratings.rating_given"])
    return {one.service: one for one in (ratings, contract("orders", ["order_confirmed", "order_placed"]), listener)}


async def connected(bus: ProvisionedBus) -> Client:
    return await nats.connect(bus.url("ratings"), inbox_prefix=b"_INBOX_ratings", allow_reconnect=False)


@asynccontextmanager
async def connection(bus: ProvisionedBus, user: str) -> AsyncIterator[JetStreamBus]:
    """One of ours."""
    ours = JetStreamBus(bus.url(user))
    await ours.start()
    assert await ours.wait_connected(5)
    yield ours
    await ours.close()


async def ask(client: Client, count: int) -> list[Any]:
    """A pull as the protocol has it."""
    inbox = client.new_inbox()
    waiting = await client.subscribe(inbox)
    await client.publish(NEXT, b'{"batch": %d, "expires": 5000000000}' % count, reply=inbox)
    return [await waiting.next_msg(5) for _ in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "nats"


async def test_it_reads_the_events_that_it_named_and_acknowledges_them_together(folder: Path) -> None:
    rows = [envelope.encode("orders", "order_confirmed", str(number), b"{}") for number in range(3)]
    rows.insert(1, envelope.encode("orders", "order_placed", "x", b"{}"))
    async with provisioned_bus(folder, contracts()) as bus, connection(bus, "orders") as orders:
        await orders.publish([Message(row.subject, row.headers, row.body) for row in rows])
        client = await connected(bus)
        events = await ask(client, 3)
        assert [event.header["ce-partitionkey"] for event in events] == ["0", "1", "2"]
        assert {event.header["ce-type"] for event in events} == {"orders.order_confirmed"}
        await client.publish(events[-1].reply, b"+ACK")
        await client.close()
        async with connection(bus, "orders-admin") as administrator:

            async def acknowledged() -> bool:
                answer = json.loads(await administrator.request("$JS.API.CONSUMER.INFO.orders.ratings"))
                return bool(answer["delivered"]["consumer_seq"] == answer["ack_floor"]["consumer_seq"] == 3)

            await until(acknowledged)


async def test_what_it_publishes_with_the_headers_of_the_page_is_an_event_to_others(folder: Path) -> None:
    id = envelope.new_id()
    headers = {"Nats-Msg-Id": id, "ce-specversion": "1.0", "ce-id": id, "ce-type": "ratings.rating_given"}
    headers |= {"ce-source": "/ratings", "ce-time": "2026-01-01T00:00:00Z", "ce-partitionkey": "mug"}
    headers |= {"content-type": "application/json"}
    async with provisioned_bus(folder, contracts()) as bus, connection(bus, "listener") as listener:
        client = await connected(bus)
        acknowledged = await client.request("event.ratings.rating_given.0", b'{"sku":"mug","stars":5}', 5, headers=headers)
        assert json.loads(acknowledged.data)["stream"] == "ratings"
        await client.close()
        source = listener.source("ratings", "listener")
        await source.reset(1)
        (event,) = await source.pull(10, 5)
    opened = envelope.decode(event.headers)
    assert (opened.id, opened.type, opened.source, opened.key) == (id, "ratings.rating_given", "/ratings", "mug")
    assert json.loads(event.body) == {"sku": "mug", "stars": 5}
