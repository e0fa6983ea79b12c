"""Contracts written by hand, as a service in another language would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atoll.system.contract import Contract


def contract(service: str, publishes: Sequence[str] = (), consumes: Sequence[str] = ()) -> Contract:
    """`publishes` are event names, `consumes` are `<service>.<event>`."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for action, source, event in [
        *(("send", service, event) for event in publishes),
        *(("receive", *name.split(".")) for name in consumes),
    ]:
        channels[f"{source}.{event}"] = {"address": f"event.{source}.{event}.{{partition}}", "x-atoll-key": "id"}
        operations[f"{action}_{source}_{event}"] = {"action": action, "channel": {"$ref": f"#/channels/{source}.{event}"}}
    return Contract.parse(
        {
            "format": 1,
            "service": service,
            "openapi": {},
            "asyncapi": {"asyncapi": "3.0.0", "channels": channels, "operations": operations},
        }
    )


def shop_on_the_bus() -> dict[str, Contract]:
    """Enough of a shop to show who may do what: reviews consumes nothing that payments or inventory say."""
    return {
        each.service: each
        for each in (
            contract("auth", ["user_registered"]),
            contract(
                "orders", ["order_placed", "order_cancelled"], ["payments.payment_authorized", "inventory.stock_reserved"]
            ),
            contract("inventory", ["stock_reserved", "stock_rejected"], ["orders.order_placed"]),
            contract("payments", ["payment_authorized", "payment_due"], ["inventory.stock_reserved", "payments.payment_due"]),
            contract("reviews", [], ["orders.order_placed"]),
        )
    }
