"""What a contract that is written by hand may not say."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.errors import SystemMistake
from tests.support.gateway import contract


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
