"""Events: declared as classes, encoded as CloudEvents, refused when they could not be published."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import msgspec
import pytest

from atoll import Bug, Event, Service
from atoll.bus.ports import MAX_PAYLOAD_BYTES
from atoll.delivery import envelope
from atoll.errors import SystemMistake
from atoll.service import context

ID = UUID("6f3f3cf0-5c8a-4a10-9c7e-6d3a3a3b1c11")


class OrderPlaced(Event, name="order_placed", key="order_id"):
    order_id: UUID
    total: Decimal = Decimal("1.50")


class Spread(Event, name="spread", key="sku", partitions=8):
    sku: str


class KeySet(Event, name="keys", key="name", subject="keys.set"):
    name: str


class Abstract(Event):
    tenant: str


class Concrete(Abstract, name="concrete", key="tenant"):
    text: str


def test_an_event_is_a_frozen_struct() -> None:
    event = OrderPlaced(order_id=ID)

    assert event == OrderPlaced(ID, Decimal("1.50"))
    assert hash(event) == hash(OrderPlaced(ID))
    with pytest.raises(AttributeError):
        event.total = Decimal(2)  # type: ignore[misc]


def test_an_event_becomes_a_cloud_event_in_its_services_name() -> None:
    row = Service("orders", publishes=[OrderPlaced]).encode(OrderPlaced(order_id=ID))
    opened = envelope.decode(row.headers)

    assert row.subject == "event.orders.order_placed.0"
    assert row.key == opened.key == str(ID)
    assert (opened.id, opened.type, opened.source) == (row.id, "orders.order_placed", "/orders")
    assert msgspec.json.decode(row.body) == {"order_id": str(ID), "total": "1.50"}


def test_the_partition_follows_from_the_key() -> None:
    encode = Service("catalog", publishes=[Spread]).encode

    subjects = {encode(Spread(sku)).subject for sku in map(str, range(100))}

    assert subjects == {f"event.catalog.spread.{number}" for number in range(8)}
    assert encode(Spread("a")).subject == encode(Spread("a")).subject


def test_atolls_own_events_may_have_another_subject() -> None:
    assert Service("auth", publishes=[KeySet]).encode(KeySet("current")).subject == "keys.set"


def test_fields_are_inherited_and_a_base_needs_no_name() -> None:
    assert Service("orders", publishes=[Concrete]).encode(Concrete(tenant="a", text="b")).key == "a"


def test_an_event_continues_the_trace_of_the_request_that_published_it() -> None:
    incoming = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    encode = Service("orders", publishes=[OrderPlaced]).encode
    token = context.enter(context.Trace(parent=incoming))
    try:
        inside = envelope.decode(encode(OrderPlaced(order_id=ID)).headers).traceparent
        own = context.current().traceparent
    finally:
        context.leave(token)
    outside = envelope.decode(encode(OrderPlaced(order_id=ID)).headers).traceparent

    assert inside == own
    assert inside[3:35] == incoming[3:35]
    assert inside[36:52] != incoming[36:52]
    assert outside[3:35] != incoming[3:35]


def test_publishing_what_was_not_declared_is_a_bug() -> None:
    with pytest.raises(Bug, match="did not declare"):
        Service("orders", publishes=[OrderPlaced]).encode(Spread("a"))


def test_an_event_that_the_bus_would_refuse_is_refused_at_once() -> None:
    with pytest.raises(Bug, match="the bus takes"):
        Service("catalog", publishes=[Spread]).encode(Spread("x" * MAX_PAYLOAD_BYTES))


def test_a_declaration_that_can_not_work_is_refused() -> None:
    with pytest.raises(SystemMistake, match="is none of its fields"):

        class NoKey(Event, name="no_key", key="id"):
            text: str

    with pytest.raises(SystemMistake, match="is no event name"):

        class BadName(Event, name="Bad-Name", key="id"):
            id: str

    with pytest.raises(SystemMistake, match="not between 1 and 256"):

        class NoPartition(Event, name="no_partition", key="id", partitions=0):
            id: str

    with pytest.raises(SystemMistake, match="not an Event with a name"):
        Service("orders", publishes=[Abstract])
    with pytest.raises(SystemMistake, match="two events called"):
        Service("orders", publishes=[Spread, Spread])
