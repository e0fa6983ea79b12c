"""A contract that was written by hand means what it says, or is refused by the name of the operation and the key."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.errors import SystemMistake
from atoll.system.contract import Contract
from tests.support.gateway import contract

TOKEN: list[dict[str, list[str]]] = [{"token": ["orders:read"]}]


@pytest.mark.parametrize(
    ("operation", "document", "means"),
    [
        ({}, {}, (False, None)),
        ({"security": []}, {}, (True, None)),
        ({"security": TOKEN}, {}, (False, "orders:read")),
        ({}, {"security": TOKEN}, (False, "orders:read")),
        ({}, {"security": []}, (True, None)),
        ({"security": [{"token": []}]}, {"security": TOKEN}, (False, None)),
        ({"security": []}, {"security": TOKEN}, (True, None)),
    ],
    ids=str,
)
def test_an_operation_that_says_nothing_of_security_has_the_documents(
    operation: dict[str, Any], document: dict[str, Any], means: tuple[bool, str | None]
) -> None:
    (found,) = contract("orders", {"/orders": {"get": operation}}, **document).operations

    assert (found.public, found.scope) == means


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ({"security": None}, "security is None"),
        ({"security": {}}, "security is {}"),
        ({"security": [{}]}, "security has {}"),
        ({"security": [{"token": []}, {}]}, "security names 2 alternatives"),
        ({"security": [{"token": ["a"]}, {"token": ["b"]}]}, "security names 2 alternatives"),
        (
            {"security": [{"token": ["orders:read", "orders:admin"]}]},
            "security asks for 2 scopes at once, orders:read, orders:admin",
        ),
        ({"security": [{"token": [""]}]}, "security has the scopes"),
        ({"security": [{"token": "orders:read"}]}, "security has the scopes"),
        ({"security": [{"token": ["orders:read orders:admin"]}]}, "security has the scopes"),
        ({"security": [{"oauth2": ["orders:admin"]}]}, "security has {'oauth2'"),
        ({"security": [{"token": [], "oauth2": []}]}, "security has {'token'"),
        ({"security": ["token"]}, "security has 'token'"),
        ({"x-atoll-ratelimit": "10/s"}, "x-atoll-ratelimit means nothing here"),
        ({"X-Atoll-Rate-Limit": "10/s"}, "X-Atoll-Rate-Limit means nothing here"),
        ({"x-atoll-protocol": "h2"}, "x-atoll-protocol means nothing here"),
        ({"x-atoll-streaming": "no"}, "x-atoll-streaming is 'no'"),
        ({"x-atoll-repeatable": 1}, "x-atoll-repeatable is 1"),
        ({"x-atoll-idempotent": None}, "x-atoll-idempotent is None"),
        ({"operationId": 7}, "operationId is 7"),
    ],
    ids=str,
)
def test_what_the_gateway_can_not_hold_is_refused(operation: dict[str, Any], said: str) -> None:
    with pytest.raises(SystemMistake) as refused:
        contract("orders", {"/orders": {"get": operation}})

    assert f"GET /orders: {said}" in refused.value.detail


def test_a_security_of_the_whole_document_is_read_as_strictly() -> None:
    with pytest.raises(SystemMistake, match=r"GET /orders: security has .'bearer'"):
        contract("orders", {"/orders": {"get": {}}}, security=[{"bearer": []}])


def test_a_websocket_begins_as_a_get() -> None:
    with pytest.raises(SystemMistake, match="POST /orders: x-atoll-upgrade"):
        contract("orders", {"/orders": {"post": {"x-atoll-upgrade": "websocket"}}})


def test_an_operation_id_is_one_operations() -> None:
    same = {"operationId": "all"}
    with pytest.raises(SystemMistake, match="GET /orders/old: the operationId all is that of GET /orders already"):
        contract("orders", {"/orders": {"get": same}, "/orders/old": {"get": same}})


@pytest.mark.parametrize("at", ["openapi", "path", "asyncapi", "channel", "event"])
def test_a_key_of_ours_that_means_nothing_is_refused_wherever_it_stands(at: str) -> None:
    channel: dict[str, Any] = {"address": "event.orders.placed.{partition}", "x-atoll-key": "id"}
    event: dict[str, Any] = {"action": "send", "channel": {"$ref": "#/channels/placed"}}
    item: dict[str, Any] = {"get": {}}
    parts: dict[str, dict[str, Any]] = {"path": item, "channel": channel, "event": event}
    parts["openapi"] = {"paths": {"/orders": item}}
    parts["asyncapi"] = {"channels": {"placed": channel}, "operations": {"placed": event}}
    written = {"format": 1, "service": "orders", "openapi": parts["openapi"], "asyncapi": parts["asyncapi"]}
    assert Contract.parse(written).publishes

    parts[at]["x-atoll-partition"] = 4

    with pytest.raises(SystemMistake, match="x-atoll-partition means nothing here"):
        Contract.parse(written)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("x-atoll-timeout-s", -1),
        ("x-atoll-timeout-s", 0),
        ("x-atoll-timeout-s", 1e12),
        ("x-atoll-timeout-s", "2s"),
        ("x-atoll-timeout-s", True),
        ("x-atoll-try-timeout-s", -1),
        ("x-atoll-try-timeout-s", [1]),
        ("x-atoll-body-limit-bytes", -5),
        ("x-atoll-body-limit-bytes", 0),
        ("x-atoll-body-limit-bytes", 1.5),
        ("x-atoll-body-limit-bytes", 1 << 32),
    ],
)
def test_a_number_that_the_gateway_could_not_use_is_a_mistake_that_names_operation_and_key(key: str, value: Any) -> None:
    with pytest.raises(SystemMistake) as mistake:
        contract("orders", {"/orders/{id}": {"get": {key: value}}})

    assert f"GET /orders/{{id}}: {key} is {value!r}" in mistake.value.detail


def test_the_largest_and_the_smallest_numbers_are_taken() -> None:
    most = {"x-atoll-timeout-s": 86_400, "x-atoll-body-limit-bytes": (1 << 32) - 1}
    least = {"x-atoll-timeout-s": 0.001, "x-atoll-try-timeout-s": 0.001, "x-atoll-body-limit-bytes": 1}

    made = contract("orders", {"/orders": {"get": most, "put": least}})

    assert [one.timeout_s for one in made.operations] == [86_400, 0.001]
