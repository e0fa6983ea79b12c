"""What notifications does: with a real database, and events in memory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from notifications.service import service
from notifications.tail import Tail

from atoll.testing import UnderTest, under_test

SCOPES = ["notifications:read"]


@pytest.fixture
async def notifications() -> AsyncIterator[UnderTest]:
    async with under_test(service) as notifications:
        yield notifications


def confirmed(customer_id: str = "ada") -> dict[str, Any]:
    return {"order_id": str(uuid4()), "customer_id": customer_id, "total": "25.00", "currency": "EUR"}


def cancelled(reason: str) -> dict[str, Any]:
    return {"order_id": str(uuid4()), "customer_id": "ada", "reason": reason}


async def texts(notifications: UnderTest, user: str = "ada") -> list[str]:
    answer = await notifications.as_user(user, scopes=SCOPES).get("/notifications")
    return [message["text"] for message in answer.json()["items"]]


async def test_customers_learn_how_their_orders_ended_newest_first(notifications: UnderTest) -> None:
    await notifications.deliver("orders.order_confirmed", confirmed())
    await notifications.deliver("orders.order_cancelled", cancelled("payment_declined"))
    assert await texts(notifications) == [
        "Your order was cancelled: your card was declined.",
        "Your order over 25.00 EUR is confirmed.",
    ]


async def test_an_order_is_told_once(notifications: UnderTest) -> None:
    event = confirmed()
    await notifications.deliver("orders.order_confirmed", event)
    await notifications.deliver("orders.order_confirmed", event)
    assert len(await texts(notifications)) == 1


async def test_a_reason_that_is_not_known_here_is_told_as_it_is(notifications: UnderTest) -> None:
    await notifications.deliver("orders.order_cancelled", cancelled("flooded"))
    assert await texts(notifications) == ["Your order was cancelled: flooded."]


async def test_nobody_reads_the_messages_of_others(notifications: UnderTest) -> None:
    await notifications.deliver("orders.order_confirmed", confirmed("ada"))
    assert await texts(notifications, "eve") == []
    stranger = notifications.as_user("ada", scopes=["orders:read"])
    assert (await stranger.get("/notifications")).status_code == 403
    assert (await stranger.get("/notifications/stream")).status_code == 403


async def test_the_list_can_be_paged(notifications: UnderTest) -> None:
    for _ in range(5):
        await notifications.deliver("orders.order_confirmed", confirmed())
    ada = notifications.as_user("ada", scopes=SCOPES)
    first = (await ada.get("/notifications", params={"limit": 3})).json()
    second = (await ada.get("/notifications", params={"limit": 3, "after": first["next"]})).json()
    ids = [message["id"] for message in first["items"] + second["items"]]
    assert ids == sorted(ids, reverse=True)
    assert (len(ids), second["next"]) == (5, None)
    assert (await ada.get("/notifications", params={"after": "x"})).status_code == 422


async def test_a_stream_shows_what_was_missed_then_what_comes_and_only_ones_own(notifications: UnderTest) -> None:
    for customer in ("ada", "eve", "ada"):
        await notifications.deliver("orders.order_confirmed", confirmed(customer))
    tail = Tail(notifications.database, "ada", after=1, ends_at=time.time() + 60, pause_s=0.005)
    lines = tail.lines()
    assert (await anext(lines)).startswith(b"retry:")
    assert (await anext(lines)).startswith(b"id: 3\nevent: order_confirmed\n")
    await notifications.deliver("orders.order_cancelled", cancelled("out_of_stock"))
    assert (await anext(lines)).startswith(b"id: 4\nevent: order_cancelled\n")
    await lines.aclose()


async def test_a_quiet_stream_says_that_it_is_still_there_and_ends_with_the_token(notifications: UnderTest) -> None:
    tail = Tail(notifications.database, "ada", 0, ends_at=time.time() + 0.05, pause_s=0.005, heartbeat_s=0.01)
    lines = [line async for line in tail.lines()]
    assert b": still here\n\n" in lines
