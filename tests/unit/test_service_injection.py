"""What handlers are given: providers with a lifetime, cleaned up in order, replaced in tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from atoll import Database, Delivery, Principal, Secret, Service, Settings
from atoll.errors import SystemMistake
from atoll.service.handlers import build_handlers
from atoll.service.http import build_app
from atoll.service.injection import Injector
from atoll.service.settings import Sources
from tests.support.services import bearer, serving, verify


class ShopSettings(Settings):
    name: str = "shop"
    key: Secret = Secret("none")


class Connection:
    def __init__(self, name: str) -> None:
        self.name = name


class Unit:
    def __init__(self, who: str) -> None:
        self.who = who


class Left:
    pass


class Right:
    pass


def counting(log: list[str]) -> Service:
    service = Service("orders", database=None)

    @service.provides()
    async def connection(settings: ShopSettings) -> AsyncIterator[Connection]:
        log.append("connect")
        yield Connection(settings.name)
        log.append("disconnect")

    @service.provides(lifetime="call")
    def unit(connection: Connection, me: Principal) -> Iterator[Unit]:
        log.append("begin")
        try:
            yield Unit(f"{me.id}@{connection.name}")
        except ValueError:
            log.append("failed")
            raise
        finally:
            log.append("end")

    @service.get("/who")
    async def who(unit: Unit, connection: Connection, fail: bool = False) -> str:
        log.append("handle")
        if fail:
            raise ValueError
        return unit.who

    @service.on_start
    async def warm(connection: Connection, settings: ShopSettings) -> None:
        log.append(f"start with {connection.name}")

    @service.on_stop
    def cool(connection: Connection) -> None:
        log.append("stop")

    return service


async def test_a_service_long_value_is_made_once_and_a_calls_own_for_each_call() -> None:
    log: list[str] = []
    sources = Sources(manifest={"name": "corner"})
    async with serving(counting(log), sources=sources) as client:
        first = await client.get("/who", headers=bearer("alice"))
        second = await client.get("/who", headers=bearer("bob"))

    assert (first.json(), second.json()) == ("alice@corner", "bob@corner")
    assert log == ["connect", "start with corner", *["begin", "handle", "end"] * 2, "stop", "disconnect"]


async def test_what_yields_sees_the_error_of_its_call() -> None:
    log: list[str] = []
    async with serving(counting(log)) as client:
        answer = await client.get("/who?fail=true", headers=bearer())

    assert answer.status_code == 500
    assert log[2:6] == ["begin", "handle", "failed", "end"]


async def test_a_test_puts_its_own_value_in_the_place_of_what_is_provided() -> None:
    import httpx

    service = counting([])
    injector = Injector(service)
    app: Any = build_app(service, database=None, verify=verify, injector=injector)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        with injector.override(Unit, Unit("stand-in")):
            inside = await client.get("/who", headers=bearer())
        after = await client.get("/who", headers=bearer())
    await injector.close()

    assert (inside.json(), after.json()) == ("stand-in", "alice@shop")


async def test_event_handlers_are_given_the_same_things_and_clean_up_too() -> None:
    log: list[str] = []
    service = Service("orders")

    @service.provides(lifetime="call")
    async def unit(delivery: Delivery) -> AsyncIterator[Unit]:
        yield Unit(delivery.id)
        log.append("end")

    @service.on("inventory.stock_rejected")
    async def cancel(event: dict[str, str], unit: Unit, database: Database) -> None:
        log.append(f"{unit.who} {event['sku']} {database}")

    injector = Injector(service, database="the database")
    handler = build_handlers(service, injector)["inventory.stock_rejected"]
    delivery = Delivery(id="e1", type="inventory.stock_rejected", source="inventory", key="k", time="")
    await handler.invoke(b'{"sku": "tea"}', delivery, None)

    assert log == ["e1 tea the database", "end"]


def test_a_service_long_value_can_not_need_what_lives_for_one_call() -> None:
    service = Service("orders")

    def direct() -> None:
        @service.provides()
        def unit(me: Principal) -> Unit:
            return Unit(me.id)

    with pytest.raises(SystemMistake, match="'me' exists only during a call"):
        direct()

    @service.provides(lifetime="call")
    def connection(me: Principal) -> Connection:
        return Connection(me.id)

    @service.provides()
    def unit(connection: Connection) -> Unit:
        return Unit(connection.name)

    with pytest.raises(SystemMistake, match="Unit lives as long as the service, but needs Connection"):
        _ = service.operations


def test_providers_that_need_each_other_are_named() -> None:
    service = Service("orders")

    @service.provides()
    def left(right: Right) -> Left:
        return Left()

    @service.provides()
    def right(left: Left) -> Right:
        return Right()

    with pytest.raises(SystemMistake, match="Left → Right → Left"):
        _ = service.operations


def test_one_type_has_one_provider_that_says_what_it_makes() -> None:
    service = Service("orders")

    @service.provides()
    def one() -> Left:
        return Left()

    @service.provides()
    def two() -> Left:
        return Left()

    with pytest.raises(SystemMistake, match="is provided twice"):
        _ = service.operations

    with pytest.raises(SystemMistake, match="its return annotation is the type"):

        @service.provides()
        def nothing():  # type: ignore[no-untyped-def]
            return Left()
