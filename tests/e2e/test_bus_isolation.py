"""With payments' own credentials in an attacker's hands (promise 7): what nats-server itself refuses.

The attacker uses nats-py, a client that does not know our manners; the administrator then looks at what is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Message
from atoll.errors import BusOutage
from tests.support.contracts import shop_on_the_bus
from tests.support.engines import ProvisionedBus, provisioned_bus
from tests.support.waiting import until

ORDER = "event.orders.order_placed.0"


class Attacker:
    """payments' credentials, and every error the server told about."""

    def __init__(self) -> None:
        self.client = Client()
        self.refusals: list[str] = []

    async def enter(self, url: str) -> None:
        async def note(error: Exception) -> None:
            self.refusals.append(str(error).lower())

        self.client = await nats.connect(url, inbox_prefix=b"_INBOX_payments", error_cb=note, allow_reconnect=False)

    async def refused(self, attempt: Awaitable[Any], subject: str) -> None:
        """`attempt` ends with nothing and the server has said that `subject` is not allowed."""
        with contextlib.suppress(NatsError):
            await attempt
        await self.client.flush()
        await until(lambda: any("permissions violation" in each and subject.lower() in each for each in self.refusals))


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[ProvisionedBus]:
    async with provisioned_bus(tmp_path / "nats", shop_on_the_bus()) as provisioned:
        yield provisioned


@pytest.fixture
async def attacker(bus: ProvisionedBus) -> AsyncIterator[Attacker]:
    attacker = Attacker()
    await attacker.enter(bus.url("payments"))
    yield attacker
    await attacker.client.close()


@pytest.fixture
async def enter(bus: ProvisionedBus) -> AsyncIterator[Callable[[str], Awaitable[JetStreamBus]]]:
    """A connection of ours as any user."""
    opened: list[JetStreamBus] = []

    async def connect(user: str) -> JetStreamBus:
        connection = JetStreamBus(bus.url(user))
        opened.append(connection)
        await connection.start()
        assert await connection.wait_connected(5)
        return connection

    yield connect
    for each in opened:
        await each.close()


Enter = Callable[[str], Awaitable[JetStreamBus]]


async def stored(enter: Enter, user: str, stream: str) -> list[bytes]:
    """Bodies in a stream, as its administrator sees them."""
    admin = await enter(user)
    return [message.body for message in await admin.stored(stream, {"batch": 1000, "seq": 1})]


async def test_the_rightful_way_works(enter: Enter) -> None:
    """Or the refusals below would prove nothing."""
    inventory, payments, orders = await enter("inventory"), await enter("payments"), await enter("orders")
    await inventory.publish([Message("event.inventory.stock_reserved.0", b"Nats-Msg-Id: s1\r\n", b"reserved")])
    await orders.publish([Message(ORDER, b"Nats-Msg-Id: o1\r\n", b"placed")])
    source = payments.source("inventory", "payments")
    await source.reset(1)

    (event,) = await source.pull(10, 5)
    source.acknowledge(event.sequence)

    assert event.body == b"reserved"
    await payments.request("$KV.registry.payments.payments-1", b"here")
    assert [each.body for each in await payments.latest("KV_registry", "$KV.registry.payments.payments-1")] == [b"here"]
    gateway = await enter("gateway")
    assert [each.body for each in await gateway.latest("KV_registry", "$KV.registry.>")] == [b"here"]
    admin = await enter("inventory-admin")

    async def acknowledged() -> bool:
        answer = json.loads(await admin.request("$JS.API.CONSUMER.INFO.inventory.payments"))
        return bool(answer["ack_floor"]["stream_seq"] == 1)

    await until(acknowledged)


async def test_a_service_consumes_its_own_events(enter: Enter) -> None:
    payments = await enter("payments")
    source = payments.source("payments", "payments")
    await source.reset(1)
    await payments.publish([Message("event.payments.payment_due.0", b"", b"due")])

    assert [event.body for event in await source.pull(10, 5)] == [b"due"]


async def test_keys_reach_everybody_live_and_as_a_snapshot(enter: Enter) -> None:
    heard: dict[str, list[bytes]] = {"payments": [], "gateway": []}
    connections = {user: await enter(user) for user in heard}
    for user, bodies in heard.items():
        connections[user].subscribe("keys.>", lambda received, bodies=bodies: bodies.append(received.body))  # type: ignore[misc]
        assert await connections[user].latest("keys", "keys.>") == []
    auth = await enter("auth")
    await auth.publish(
        [Message("keys.set", b"Nats-Msg-Id: k1\r\n", b"one"), Message("keys.set", b"Nats-Msg-Id: k2\r\n", b"two")]
    )

    for user, bodies in heard.items():
        await until(lambda bodies=bodies: bodies == [b"one", b"two"])  # type: ignore[misc]
        assert [each.body for each in await connections[user].latest("keys", "keys.>")] == [b"two"]


async def test_publishing_on_anothers_subject_is_refused(attacker: Attacker, enter: Enter) -> None:
    await attacker.refused(
        attacker.client.publish("event.inventory.stock_reserved.0", b"forged"), "event.inventory.stock_reserved.0"
    )
    await attacker.refused(attacker.client.publish("keys.set", b"forged"), "keys.set")

    assert await stored(enter, "inventory-admin", "inventory") == []
    assert await stored(enter, "auth-admin", "keys") == []


async def test_our_own_client_learns_of_a_refusal_at_once(enter: Enter) -> None:
    payments = await enter("payments")
    started = asyncio.get_running_loop().time()
    with pytest.raises(BusOutage, match="Permissions Violation"):
        await payments.publish([Message("event.inventory.stock_reserved.0", b"", b"x")], timeout_s=30)
    with pytest.raises(BusOutage, match="Permissions Violation"):
        await payments.request("$JS.API.STREAM.NAMES", timeout_s=30)

    assert asyncio.get_running_loop().time() - started < 5


@pytest.mark.parametrize(
    "aim",
    ["event.inventory.stock_reserved.0", "$KV.registry.inventory.inventory-1", "keys.set"],
)
async def test_an_acknowledgement_aimed_at_anothers_subject_lands_nowhere(aim: str, attacker: Attacker, enter: Enter) -> None:
    """A reply subject is not checked against allow lists: accounts must keep it inside."""
    await attacker.client.publish("event.payments.payment_due.0", b"bait", reply=aim)
    await attacker.client.publish("$KV.registry.payments.payments-1", b"bait", reply=aim)
    await attacker.client.flush()
    await until_stored(enter, "platform-admin", "KV_registry", [b"bait"])
    await until_stored(enter, "payments-admin", "payments", [b"bait"])

    assert await stored(enter, "inventory-admin", "inventory") == []
    assert await stored(enter, "auth-admin", "keys") == []
    gateway = await enter("gateway")
    assert [each.subject for each in await gateway.latest("KV_registry", "$KV.registry.>")] == [
        "$KV.registry.payments.payments-1"
    ]


async def until_stored(enter: Enter, user: str, stream: str, bodies: list[bytes]) -> None:
    async def there() -> bool:
        return await stored(enter, user, stream) == bodies

    await until(there)


async def test_a_real_event_aimed_at_anothers_subject_lands_nowhere(attacker: Attacker, enter: Enter) -> None:
    inventory = await enter("inventory")
    await inventory.publish([Message("event.inventory.stock_reserved.0", b"Nats-Msg-Id: s1\r\n", b"real")])
    for aim in ("event.orders.order_placed.0", "event.inventory.stock_reserved.0", "$KV.registry.inventory.inventory-1"):
        question = b'{"batch":1,"no_wait":true}'
        await attacker.client.request("$JS.API.CONSUMER.RESET.inventory.payments", b'{"seq":1}', timeout=5)
        await attacker.client.publish("$JS.API.CONSUMER.MSG.NEXT.inventory.payments", question, reply=aim)
        await attacker.client.flush()
    answer = await attacker.client.request("$JS.API.CONSUMER.RESET.inventory.payments", b'{"seq":1}', timeout=5)
    assert b'"error"' not in answer.data

    assert await stored(enter, "inventory-admin", "inventory") == [b"real"]
    assert await stored(enter, "orders-admin", "orders") == []
    assert await stored(enter, "platform-admin", "KV_registry") == []


@pytest.mark.parametrize("api", ["STREAM.PURGE.payments", "STREAM.DELETE.payments", "STREAM.MSG.DELETE.payments"])
async def test_even_its_own_stream_can_not_be_emptied_by_an_acknowledgement(api: str, attacker: Attacker, enter: Enter) -> None:
    payments = await enter("payments")
    await payments.publish([Message("event.payments.payment_due.0", b"", b"%d" % n) for n in range(3)])
    await attacker.client.publish("event.payments.payment_due.0", b"bait", reply=f"$JS.API.{api}")
    question = b'{"batch":1,"no_wait":true}'
    await attacker.client.publish("$JS.API.CONSUMER.MSG.NEXT.inventory.payments", question, reply=f"$JS.API.{api}")
    await attacker.client.flush()

    await until_stored(enter, "payments-admin", "payments", [b"0", b"1", b"2", b"bait"])


async def test_consuming_what_it_did_not_subscribe_to_is_refused(attacker: Attacker, enter: Enter) -> None:
    orders = await enter("orders")
    await orders.publish([Message(ORDER, b"", b"secret")])
    client, inbox = attacker.client, attacker.client.new_inbox()
    next_of = "$JS.API.CONSUMER.MSG.NEXT.orders."
    for subject in (next_of + "payments", next_of + "inventory", "$JS.API.CONSUMER.CREATE.orders", "$JS.API.DIRECT.GET.orders"):
        await attacker.refused(client.request(subject, b"{}", timeout=0.2), subject)
    heard: list[bytes] = []

    async def hear(message: Any) -> None:
        heard.append(message.data)

    for subject in ("event.orders.>", "event.>", ">", "$JS.>"):
        await attacker.refused(client.subscribe(subject, cb=hear), subject)
    await client.subscribe(inbox, cb=hear)
    await orders.publish([Message(ORDER, b"", b"secret too")])
    await client.flush()

    assert heard == []


async def test_a_durable_gives_only_the_events_it_was_made_for(attacker: Attacker, enter: Enter) -> None:
    inventory = await enter("inventory")
    await inventory.publish([Message("event.inventory.stock_rejected.0", b"", b"undeclared")])
    await inventory.publish([Message("event.inventory.stock_reserved.0", b"", b"declared")])
    subscription = await attacker.client.jetstream().pull_subscribe_bind("payments", "inventory")
    await attacker.client.request("$JS.API.CONSUMER.RESET.inventory.payments", b'{"seq":1}', timeout=5)

    assert [message.data for message in await subscription.fetch(10, timeout=0.5)] == [b"declared"]


async def test_writing_anothers_registry_key_is_refused(attacker: Attacker, enter: Enter) -> None:
    inventory = await enter("inventory")
    await inventory.request("$KV.registry.inventory.inventory-1", b"good")
    key = "$KV.registry.inventory.inventory-1"
    await attacker.refused(attacker.client.publish(key, b"forged"), key)
    direct = "$JS.API.DIRECT.GET.KV_registry"
    await attacker.refused(attacker.client.request(f"{direct}.{key}", b"", timeout=0.2), f"{direct}.{key}")

    assert await stored(enter, "platform-admin", "KV_registry") == [b"good"]


async def test_reading_others_inboxes_is_refused(attacker: Attacker) -> None:
    async def ignore(_message: Any) -> None: ...

    for subject in ("_INBOX_orders.>", "_INBOX_payments-admin.>", "_INBOX.>", "_R_.>"):
        await attacker.refused(attacker.client.subscribe(subject, cb=ignore), subject)


async def test_making_and_deleting_streams_and_durables_is_refused(attacker: Attacker, enter: Enter) -> None:
    attempts = {
        "STREAM.CREATE.mine": b'{"name":"mine","subjects":["mine"]}',
        "STREAM.UPDATE.payments": b'{"name":"payments","subjects":["event.payments.>"],"max_msgs":1}',
        "STREAM.DELETE.payments": b"",
        "STREAM.PURGE.payments": b"",
        "STREAM.NAMES": b"",
        "CONSUMER.CREATE.payments.spy": b'{"stream_name":"payments","config":{"durable_name":"spy"}}',
        "CONSUMER.DELETE.inventory.payments": b"",
    }
    for subject, body in attempts.items():
        await attacker.refused(attacker.client.request(f"$JS.API.{subject}", body, timeout=0.2), f"$JS.API.{subject}")
    with pytest.raises((NatsTimeout, NoRespondersError)):
        await attacker.client.request("$SYS.REQ.SERVER.PING", b"", timeout=0.2)

    admin = await enter("payments-admin")
    assert json.loads(await admin.request("$JS.API.STREAM.NAMES"))["streams"] == ["payments"]


async def test_a_wrong_password_stays_outside(bus: ProvisionedBus) -> None:
    stranger = JetStreamBus(bus.server.url("payments", "guessed"))
    await stranger.start()
    assert not await stranger.wait_connected(0.3)
    with pytest.raises(BusOutage, match="Authorization Violation"):
        await stranger.publish([Message("event.payments.payment_due.0", b"", b"x")])
    await stranger.close()


async def test_a_gateway_writes_its_own_registry_keys_and_nothing_else(bus: ProvisionedBus) -> None:
    refusals: list[str] = []

    async def note(error: Exception) -> None:
        refusals.append(str(error).lower())

    def refused(subject: str) -> bool:
        return any("permissions violation" in each and subject.lower() in each for each in refusals)

    client = await nats.connect(bus.url("gateway"), inbox_prefix=b"_INBOX_gateway", error_cb=note, allow_reconnect=False)
    try:
        assert json.loads((await client.request("$KV.registry.gateway.one", b"here", timeout=5)).data)["seq"]
        others = ("$KV.registry.orders.orders-1", "$KV.contracts.system", "keys.set", ORDER, "$JS.API.STREAM.DELETE.keys")
        for subject in others:
            await client.publish(subject, b"evil")
        await client.flush()
        await until(lambda: all(refused(subject) for subject in others))
    finally:
        await client.close()
