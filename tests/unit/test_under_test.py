"""`under_test`: what service authors can rely on in their tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from starlette.websockets import WebSocketDisconnect

from atoll import Conflict, Delivery, Event, Outage, Principal, Service, Settings, WebSocket
from atoll.sqlite import Database, Transaction
from atoll.testing import UnderTest, under_test


class Placed(Event, name="placed", key="id"):
    id: str
    by: str = ""


class Noted(Event, name="noted", key="id"):
    id: str


class Rejected(msgspec.Struct):
    id: str
    reason: str = ""


class Vat(Settings):
    rate: str = "0.1"


class Mood:
    def __init__(self) -> None:
        self.error: Exception | None = None


def shop() -> Service:
    service = Service("orders", publishes=[Placed, Noted])

    @service.provides()
    def mood() -> Mood:
        return Mood()

    @service.put("/orders/{id}", scope="orders:write")
    async def place(id: str, me: Principal, tx: Transaction) -> str:
        await tx.execute("INSERT INTO orders (id, note) VALUES ($1, '')", id)
        await tx.publish(Placed(id, me.id))
        return me.session

    @service.get("/orders/{id}", public=True)
    async def order(id: str, tx: Transaction, vat: Vat) -> list[Any]:
        return [await tx.scalar("SELECT note FROM orders WHERE id = $1", id), vat.rate]

    @service.websocket("/orders/counter/{desk}", scope="orders:write")
    async def counter(socket: WebSocket, desk: str, me: Principal, database: Database) -> None:
        if desk == "closed":
            raise Conflict("this desk is closed")
        await socket.accept(next(iter(socket["subprotocols"]), None))
        async for id in socket.iter_text():
            async with database.transaction() as tx:
                await tx.execute("INSERT INTO orders (id, note) VALUES ($1, $2)", id, desk)
                await tx.publish(Placed(id, me.id))
            await socket.send_text(f"{id} at {desk}")
            if id == "last":
                await socket.close(4000, "enough")

    @service.on("inventory.rejected")
    async def reject(event: Rejected, delivery: Delivery, mood: Mood, tx: Transaction) -> None:
        await tx.execute("UPDATE orders SET note = note || $1 WHERE id = $2", event.reason, event.id)
        if mood.error is not None:
            raise mood.error

    @service.on("orders.placed")
    async def note(event: Placed, tx: Transaction) -> None:
        await tx.publish(Noted(event.id))

    return service


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    migrations = tmp_path / "service/migrations"
    migrations.mkdir(parents=True)
    (migrations / "0001_orders.sql").write_text("CREATE TABLE orders (id TEXT PRIMARY KEY, note TEXT NOT NULL)")
    return migrations.parent


@pytest.fixture
async def orders(folder: Path) -> AsyncIterator[UnderTest]:
    async with under_test(shop(), folder=folder) as orders:
        yield orders


async def place(orders: UnderTest, id: str = "o1") -> None:
    answer = await orders.as_user("ada", scopes=["orders:write"]).put(f"/orders/{id}")
    assert (answer.status_code, answer.json()) == (200, "s-ada")


async def note_of(orders: UnderTest, id: str = "o1") -> str:
    return str((await orders.client.get(f"/orders/{id}")).json()[0])


async def test_a_users_token_carries_its_scopes_and_no_more(orders: UnderTest) -> None:
    await place(orders)

    assert (await orders.as_user("ada").put("/orders/o2")).status_code == 403
    assert (await orders.client.put("/orders/o2")).status_code == 401
    stranger = await orders.client.put("/orders/o2", headers={"authorization": "Bearer forged"})
    assert stranger.status_code == 401


async def test_what_was_published_is_there_when_the_call_returns(orders: UnderTest) -> None:
    await place(orders)

    assert orders.published[0] == Placed("o1", "ada")


async def test_events_of_its_own_are_consumed_too_and_settle_waits_for_them(orders: UnderTest) -> None:
    await place(orders)
    await orders.settle()

    assert orders.published == [Placed("o1", "ada"), Noted("o1")]


async def test_an_event_is_handled_when_deliver_returns(orders: UnderTest) -> None:
    await place(orders)
    await orders.deliver("inventory.rejected", {"id": "o1", "reason": "gone"})
    await orders.deliver("inventory.rejected", Rejected("o1", "!"))
    await orders.deliver(Placed("o7"))

    assert await note_of(orders) == "gone!"
    assert Noted("o7") in orders.published


async def test_an_event_that_nobody_handles_here_is_refused(orders: UnderTest) -> None:
    with pytest.raises(LookupError, match=r"orders handles inventory\.rejected, orders\.placed; not inventory\.reserved"):
        await orders.deliver("inventory.reserved", {})


async def test_a_failing_handler_fails_the_test_and_ends_as_a_dead_letter(orders: UnderTest) -> None:
    await place(orders)
    mood = Mood()
    mood.error = Conflict("not now")
    with orders.override(Mood, mood):
        with pytest.raises(Conflict, match="not now"):
            await orders.deliver("inventory.rejected", {"id": "o1", "reason": "gone"})
        await orders.settle()

    [dead] = await orders.dead_letters()
    assert (dead.type, dead.error, await note_of(orders)) == ("inventory.rejected", "Conflict: not now", "")


async def test_during_an_outage_an_event_waits_and_is_handled_once_afterwards(orders: UnderTest) -> None:
    await place(orders)
    mood = Mood()
    mood.error = Outage("the world")
    with orders.override(Mood, mood):
        await orders.deliver("inventory.rejected", {"id": "o1", "reason": "gone"})
        assert await note_of(orders) == ""
        with pytest.raises(AssertionError, match=r"inventory\.rejected .* Outage: the world"):
            await orders.settle(timeout_s=0.05)
    await orders.settle()

    assert (await note_of(orders), await orders.dead_letters()) == ("gone", [])


async def test_an_event_that_does_not_fit_names_its_faults(orders: UnderTest) -> None:
    with pytest.raises(Exception, match="id: Expected `str`, got `int`"):
        await orders.deliver("inventory.rejected", {"id": 7})


async def test_a_websocket_talks_to_its_handler_and_what_that_publishes_is_there_afterwards(orders: UnderTest) -> None:
    asked: Any = {"user": "ada", "scopes": ["orders:write"], "protocols": ["v1"]}
    async with orders.websocket("/orders/counter/east%20wing", **asked) as socket:
        await socket.send("1")
        assert (socket.protocol, await socket.receive()) == ("v1", "1 at east wing")
        await socket.send("last")
        assert await socket.receive() == "last at east wing"
        with pytest.raises(WebSocketDisconnect) as closed:
            await socket.receive()

    assert (closed.value.code, closed.value.reason) == (4000, "enough")
    assert [one for one in orders.published if isinstance(one, Placed)] == [Placed("1", "ada"), Placed("last", "ada")]


async def test_a_websocket_that_is_refused_raises_with_the_answer(orders: UnderTest) -> None:
    async def refused(desk: str, **asked: Any) -> int:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            async with orders.websocket(f"/orders/counter/{desk}", **asked):
                raise AssertionError("it was upgraded")
        return refused.value.response.status_code

    assert await refused("1") == 401
    assert await refused("1", user="ada") == 403
    assert await refused("closed", user="ada", scopes=["orders:write"]) == 409


async def test_settings_are_the_tests_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE", "0.9")
    async with under_test(shop(), folder=folder, settings={"rate": "0.2"}) as orders:
        await place(orders)
        assert (await orders.client.get("/orders/o1")).json()[1] == "0.2"


async def test_each_test_has_a_database_of_its_own(folder: Path) -> None:
    async with under_test(shop(), folder=folder) as one, under_test(shop(), folder=folder) as other:
        await place(one)
        await place(other)


async def test_a_service_without_a_database_runs_too() -> None:
    service = Service("storefront", database=None)

    @service.get("/", public=True)
    async def home() -> str:
        return "home"

    async with under_test(service) as storefront:
        assert (await storefront.client.get("/")).json() == "home"
        await storefront.settle()
        assert (storefront.database, storefront.published) == (None, [])
