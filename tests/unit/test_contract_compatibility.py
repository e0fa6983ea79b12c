"""Whether a consumer can read what a publisher writes, by their contracts."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.system import files
from atoll.system.compatibility import unreadable
from atoll.system.contract import Contract
from tests.support.deployed import SHOP

TEXT = {"type": "string"}
ID = {"type": "string", "format": "uuid"}
LINE = {"type": "object", "properties": {"sku": TEXT, "quantity": {"type": "integer"}}, "required": ["sku", "quantity"]}
WRITTEN: dict[str, Any] = {
    "type": "object",
    "properties": {"id": ID, "state": {"enum": ["open", "paid"]}, "note": TEXT, "lines": {"type": "array", "items": LINE}},
    "required": ["id", "state", "lines"],
}


def contract(service: str, action: str, payload: dict[str, Any] | None, **components: Any) -> Contract:
    """Of orders, who publishes order_placed, or of somebody who consumes it."""
    channel = {"address": "event.orders.order_placed.{partition}", "x-atoll-key": "id"}
    messages = {"order_placed": {"payload": payload}} if payload is not None else {}
    asyncapi = {
        "channels": {"order_placed": {**channel, "messages": messages}},
        "operations": {"one": {"action": action, "channel": {"$ref": "#/channels/order_placed"}}},
        "components": components,
    }
    return Contract.parse({"format": 1, "service": service, "openapi": {}, "asyncapi": asyncapi})


def faults(written: dict[str, Any], read: dict[str, Any]) -> list[str]:
    return unreadable(contract("orders", "send", written), contract("payments", "receive", read))


def with_property(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {**WRITTEN, "properties": {**WRITTEN["properties"], name: schema}}


def test_who_needs_less_than_is_written_reads_it() -> None:
    assert faults(WRITTEN, WRITTEN) == []
    assert faults(WRITTEN, {"type": "object", "properties": {"id": ID}, "required": ["id"]}) == []
    assert faults(with_property("new", TEXT), WRITTEN) == []
    assert faults(WRITTEN, with_property("may_be_there", TEXT)) == []


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ({**WRITTEN, "required": ["id", "lines"]}, "order_placed.state is not always there"),
        ({**WRITTEN, "properties": {"state": {}, "lines": {}}, "required": ["state", "lines"]}, "order_placed.id is gone"),
        (with_property("id", {"type": "integer"}), "order_placed.id is integer instead of string (uuid)"),
        (with_property("id", TEXT), "order_placed.id is string instead of string (uuid)"),
        (
            with_property("state", {"enum": ["open", "lost"]}),
            "order_placed.state is one of 'open', 'lost' instead of one of 'open', 'paid'",
        ),
        (
            with_property("note", {"anyOf": [TEXT, {"type": "null"}]}),
            "order_placed.note may be null, which is not expected",
        ),
        (
            with_property("lines", {"type": "array", "items": {**LINE, "required": ["sku"]}}),
            "order_placed.lines[].quantity is not always there",
        ),
    ],
)
def test_what_a_consumer_needs_and_would_not_find_is_named(written: dict[str, Any], fault: str) -> None:
    assert fault in faults(written, WRITTEN)


def test_whoever_takes_more_than_is_written_reads_it() -> None:
    assert faults(WRITTEN, with_property("note", {"anyOf": [TEXT, {"type": "null"}]})) == []
    assert faults(with_property("n", {"type": "integer"}), with_property("n", {"type": ["number", "null"]})) == []
    assert faults(WRITTEN, with_property("state", {"enum": ["open", "paid", "lost"]})) == []


def test_an_event_that_nobody_publishes_any_more_is_named() -> None:
    reader = contract("payments", "receive", WRITTEN)
    assert unreadable(Contract.parse({"format": 1, "service": "orders", "openapi": {}}), reader) == [
        "order_placed is not published"
    ]


def test_a_schema_that_refers_to_itself_comes_to_an_end() -> None:
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}}}
    written = contract("orders", "send", {"$ref": "#/components/schemas/Tree"}, schemas={"Tree": tree})
    read = contract("payments", "receive", {"$ref": "#/components/schemas/Tree"}, schemas={"Tree": tree})
    assert unreadable(written, read) == []


def test_who_says_nothing_of_an_event_is_not_judged() -> None:
    assert unreadable(contract("orders", "send", None), contract("payments", "receive", WRITTEN)) == []


def test_everybody_in_the_shop_reads_what_the_others_write() -> None:
    paths = sorted((SHOP / "contracts").glob("*.json"))
    found = [files.load_contract(path) for path in paths]
    assert len(found) == 6
    assert [line for one in found for other in found for line in unreadable(one, other)] == []
