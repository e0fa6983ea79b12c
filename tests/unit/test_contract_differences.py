"""What `up --frozen` and its warning say of a contract that is not the accepted one."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from atoll.system.contract import Contract
from atoll.system.differences import differences

OLD: dict[str, Any] = {
    "format": 1,
    "service": "orders",
    "database": "postgresql",
    "openapi": {
        "info": {"title": "orders", "version": "1.0.0"},
        "paths": {"/orders": {"get": {"operationId": "orders", "security": [{"token": ["orders:read"]}]}}},
        "components": {"schemas": {"Order": {"type": "object"}}},
    },
    "asyncapi": {
        "channels": {
            "order_placed": {"address": "event.orders.order_placed.{partition}", "x-atoll-key": "order_id"},
            "stock_reserved": {"address": "event.inventory.stock_reserved.{partition}"},
        },
        "operations": {
            "send": {"action": "send", "channel": {"$ref": "#/channels/order_placed"}},
            "receive": {"action": "receive", "channel": {"$ref": "#/channels/stock_reserved"}},
        },
    },
    "settings": [{"name": "vat_rate", "required": True}],
}


def changed(path: str, value: Any) -> Contract:
    """The old one with the value at `path` (its parts between spaces) set, or taken away by None."""
    document = deepcopy(OLD)
    *parents, last = path.split()
    node: Any = document
    for part in parents:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return Contract.parse(document)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("openapi paths /orders post", {"security": []}, ["POST /orders is new"]),
        ("openapi paths /orders", None, ["GET /orders is gone"]),
        ("openapi paths /orders get security", [], ["GET /orders changed"]),
        ("openapi components schemas Order", {"type": "array"}, ["schema Order changed"]),
        ("asyncapi operations send", None, ["event order_placed is gone"]),
        ("asyncapi channels order_placed x-atoll-key", "id", ["event order_placed changed"]),
        ("asyncapi operations receive", None, ["subscription inventory.stock_reserved is gone"]),
        ("settings", [], ["setting vat_rate is gone"]),
        ("database", "sqlite", ["its database is sqlite instead of postgresql"]),
        ("openapi info title", "Orders", ["its descriptions changed"]),
    ],
)
def test_each_change_is_named(path: str, value: Any, told: list[str]) -> None:
    assert differences(Contract.parse(OLD), changed(path, value)) == told


def test_what_means_the_same_has_no_differences() -> None:
    assert differences(Contract.parse(OLD), Contract.parse(dict(reversed(OLD.items())))) == []
