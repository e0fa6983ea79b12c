"""Orders, inventory and payments together: whatever comes in whatever order, every order ends, and ends well.

Each run is one seed: what is ordered and cancelled, which service hears which event next (only events of one service about
one order keep their order), what is heard twice, when the card provider's answers get lost, and what happens during a charge.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest
from cardprovider.app import provider
from cardprovider.ledger import Ledger
from inventory.service import service as inventory_service
from orders.service import service as orders_service
from payments.provider import CardProvider
from payments.service import service as payments_service

from atoll.testing import UnderTest, under_test

SKUS = ("mug", "bowl")
STOCK = 12
ORDERS = 7
Heard = tuple[str, str, dict[str, Any]]
"""Type, key and data of an event."""
Choice = tuple["Member", tuple[str, int], Heard]
"""Who could hear what next; in the middle, whose event it is and its place among those."""


class Wire(httpx.AsyncBaseTransport):
    """To the card provider. `around` runs before and after each charge; answers get lost as `loses` says."""

    def __init__(self, ledger: Ledger, loses: Callable[[], bool]) -> None:
        self._inner = httpx.ASGITransport(provider(ledger))
        self._loses = loses
        self.around: Callable[[], Awaitable[None]] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        around, self.around = self.around, None
        try:
            if around is not None:
                await around()
            answer = await self._inner.handle_async_request(request)
            if around is not None:
                await around()
        finally:
            self.around = around
        if self._loses():
            raise httpx.ReadError("the answer was lost", request=request)
        return answer


@dataclass
class Member:
    """One of the three, with what it has told everybody and how far the others have listened."""

    running: UnderTest
    heard: set[tuple[str, int]] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.running.service.name

    @property
    def told(self) -> list[Heard]:
        return [_heard(self.name, event) for event in self.running.published]

    def wants(self, type_: str) -> bool:
        return any(one.type == type_ for one in self.running.service.subscriptions)

    async def hear(self, event: Heard) -> None:
        type_, key, data = event
        await self.running.deliver(type_, data, key=key)


def _heard(source: str, event: Any) -> Heard:
    declared = type(event).__atoll_event__
    data: dict[str, Any] = msgspec.to_builtins(event)
    return f"{source}.{declared.name}", data[declared.key], data


@dataclass
class Saga:
    """One run. `next_heard` are all events that somebody could hear next."""

    chance: random.Random
    members: dict[str, Member]
    wire: Wire
    ledger: Ledger
    placed: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def customer(self) -> httpx.AsyncClient:
        return self.members["orders"].running.as_user("ada", scopes=["orders:read", "orders:write"])

    async def place(self) -> None:
        wanted = {sku: self.chance.randint(1, 4) for sku in self.chance.sample(SKUS, self.chance.randint(1, 2))}
        lines = [{"sku": sku, "quantity": quantity} for sku, quantity in wanted.items()]
        card = self.chance.choice(["card-ok", "card-ok", "card-declined"])
        answer = await self.customer.post("/orders", json={"lines": lines, "payment_method": card})
        assert answer.status_code == 201, answer.text
        self.placed[answer.json()["id"]] = wanted

    async def cancel(self) -> None:
        order_id = self.chance.choice(list(self.placed))
        answer = await self.customer.post(f"/orders/{order_id}/cancellation")
        assert answer.status_code in (200, 409), answer.text

    def next_heard(self, listeners: list[Member]) -> list[Choice]:
        """Of each listener the first unheard event of every source and key."""
        found: list[Choice] = []
        for listener in listeners:
            heads: dict[tuple[str, str], Choice] = {}
            for source in self.members.values():
                for place, event in enumerate(source.told):
                    mark = (source.name, place)
                    if listener.wants(event[0]) and mark not in listener.heard:
                        heads.setdefault((source.name, event[1]), (listener, mark, event))
            found.extend(heads.values())
        return found

    async def step(self, listeners: list[Member]) -> bool:
        """Somebody hears something, sometimes twice; False when there is nothing to hear."""
        choices = self.next_heard(listeners)
        if not choices:
            return False
        listener, mark, event = self.chance.choice(choices)
        listener.heard.add(mark)
        await listener.hear(event)
        if self.chance.random() < 0.2:
            await listener.hear(event)
        return True

    async def around_a_charge(self) -> None:
        """While the card is being charged, the customer cancels, and payments hears of it."""
        if self.chance.random() < 0.3:
            await self.cancel()
            orders, payments = self.members["orders"], self.members["payments"]
            for place, event in enumerate(orders.told):
                if payments.wants(event[0]) and ("orders", place) not in payments.heard:
                    payments.heard.add(("orders", place))
                    await payments.hear(event)

    async def run(self) -> None:
        for _ in range(ORDERS):
            await self.place()
        self.wire.around = self.around_a_charge
        busy = True
        while busy:
            if self.chance.random() < 0.1:
                await self.cancel()
            busy = await self.step(list(self.members.values()))
            if not busy:
                for member in self.members.values():
                    await member.running.settle()
                busy = bool(self.next_heard(list(self.members.values())))


@pytest.fixture
async def saga(request: pytest.FixtureRequest) -> AsyncIterator[Saga]:
    chance = random.Random(request.param)
    ledger = Ledger(":memory:")
    wire = Wire(ledger, loses=lambda: chance.random() < 0.1)
    settings: dict[str, dict[str, Any]] = {
        "inventory": {"initial_stock": STOCK},
        "payments": {"card_provider_url": "http://cards"},
    }
    async with AsyncExitStack() as stack:
        members = {}
        for service in (orders_service, inventory_service, payments_service):
            running = await stack.enter_async_context(under_test(service, settings=settings.get(service.name)))
            members[service.name] = Member(running)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=wire, base_url="http://cards"))
        stack.enter_context(members["payments"].running.override(CardProvider, CardProvider(http)))
        for sku in SKUS:
            product = {"sku": sku, "name": sku, "price": "2.50", "currency": "EUR"}
            await members["orders"].running.deliver("catalog.product_added", product)
            await members["inventory"].running.deliver("catalog.product_added", product)
        yield Saga(chance, members, wire, ledger)
    ledger.close()


@pytest.mark.parametrize("saga", range(8), indirect=True)
async def test_however_it_is_shuffled_every_order_ends_and_stock_and_charges_agree_with_it(saga: Saga) -> None:
    await saga.run()

    status = {order["id"]: order["status"] for order in (await saga.customer.get("/orders")).json()["items"]}
    assert status.keys() == saga.placed.keys()
    assert set(status.values()) <= {"confirmed", "cancelled"}
    for sku in SKUS:
        sold = sum(lines.get(sku, 0) for order_id, lines in saga.placed.items() if status[order_id] == "confirmed")
        level = (await saga.members["inventory"].running.client.get(f"/inventory/{sku}")).json()
        assert (level["on_hand"], level["reserved"]) == (STOCK - sold, 0)
    for order_id, end in status.items():
        moved = [entry for entry in saga.ledger.entries() if entry["reference"] == order_id and entry["status"] == "approved"]
        kinds = sorted(entry["kind"] for entry in moved)
        assert kinds in ([["charge"]] if end == "confirmed" else [[], ["charge", "refund"]])
    for member in saga.members.values():
        assert await member.running.dead_letters() == []
