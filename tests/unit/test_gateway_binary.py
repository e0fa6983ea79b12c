"""Protobuf's binary form, by examples of its own documentation (https://protobuf.dev/programming-guides/encoding) and by hand.

That Envoy reads what was meant is in tests/e2e/test_gateway_tables.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from atoll.errors import Bug
from atoll.gateway.xds import binary
from atoll.gateway.xds.branches import branched
from atoll.gateway.xds.typed import typed

ROUTES = "envoy.config.route.v3.RouteConfiguration"


def _table(**fields: Any) -> bytes:
    """The message within its resource."""
    content = binary.tables([branched(typed(ROUTES, **fields))])
    url = f"type.googleapis.com/{ROUTES}".encode()
    head = bytes([0x0A, len(url)]) + url + b"\x12"
    assert head in content
    return content.partition(head)[2][1:]


def _route(**fields: Any) -> bytes:
    return _table(virtual_hosts=[{"routes": [{"route": fields}]}])


def test_a_text_is_its_number_its_length_and_itself() -> None:
    assert _table(name="testing") == bytes.fromhex("0a07") + b"testing"


def test_lengths_are_of_bytes_and_have_seven_bits_to_a_byte() -> None:
    assert _table(name="gr\u00fc\u00df")[:2] == bytes.fromhex("0a06")
    assert bytes.fromhex("429601") + 150 * b"x" in _table(request_headers_to_remove=[150 * "x"])


@pytest.mark.parametrize(
    ("said", "encoded"),
    [("1s", "0801 1000"), ("0.250s", "0800 10 80e59a77"), ("1.5s", "0801 10 80cab5ee01"), ("-1s", "08 ffffffffffffffffff01")],
)
def test_durations(said: str, encoded: str) -> None:
    """Seconds and nanoseconds; a negative number has 64 bits."""
    assert bytes.fromhex(encoded) in _route(timeout=said)


def test_what_is_null_is_left_out() -> None:
    assert _table(name=None, request_headers_to_remove=[]) == b""


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"nonsense": True}, "field 'nonsense' of envoy.config.route.v3.RouteConfiguration"),
        ({"virtual_hosts": [{"routes": [{"requre_tls": "ALL"}]}]}, "field 'requre_tls' of Route"),
        ({"virtual_hosts": [{"typed_per_filter_config": {"x": typed("nope.v3.Nope")}}]}, "message nope.v3.Nope"),
    ],
)
def test_what_it_does_not_know_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    """Left out, a rule would silently not count."""
    with pytest.raises(Bug, match=named):
        binary.tables([branched(typed(ROUTES, **fields))])
