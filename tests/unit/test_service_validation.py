"""Wrong input: every fault is named with its field, and a fault is found exactly when msgspec refuses."""

from __future__ import annotations

import datetime as dt
import enum
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from atoll.service.validation import MAX_FAULTS, faults

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Line(msgspec.Struct, forbid_unknown_fields=True):
    sku: Annotated[str, msgspec.Meta(min_length=1, max_length=20, pattern="^[a-z0-9-]+$")]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=100)]
    gift: bool = False


class Card(msgspec.Struct, tag_field="kind", tag="card"):
    number: str


class Invoice(msgspec.Struct, tag_field="kind", tag="invoice"):
    days: int


class Point(msgspec.Struct, array_like=True):
    x: float
    y: float


class Address(TypedDict):
    street: str
    floor: int


@dataclass
class Contact:
    email: str
    age: int | None = None


class Box(msgspec.Struct, Generic[T]):
    content: T


class Order(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    order_id: UUID
    lines: Annotated[list[Line], msgspec.Meta(min_length=1, max_length=3)]
    total: Decimal
    placed_at: dt.datetime
    colour: Colour
    payment: Card | Invoice
    size: Literal["s", "m"] = "s"
    note: str | None = None
    tags: set[str] = set()
    prices: dict[str, Decimal] = {}
    counts: dict[int, int] = {}
    where: Point | None = None
    pair: tuple[int, str] = (0, "")
    address: Address | None = None
    contact: Contact | None = None
    box: Box[int] | None = None
    either: int | str | list[int] | None = None


GOOD: dict[str, Any] = {
    "orderId": "6f3f3cf0-5c8a-4a10-9c7e-6d3a3a3b1c11",
    "lines": [{"sku": "tea", "quantity": 1}],
    "total": "1.50",
    "placedAt": "2026-01-02T03:04:05Z",
    "colour": "red",
    "payment": {"kind": "card", "number": "42"},
}


def fields(raw: Any, annotation: Any = Order) -> list[str]:
    return [one["field"] for one in faults(raw, annotation)]


def test_three_faults_are_named_one_of_them_nested() -> None:
    raw = GOOD | {"total": "cheap", "lines": [{"sku": "tea", "quantity": 0}], "colour": "green"}

    assert faults(raw, Order) == [
        {"field": "lines[0].quantity", "detail": "Expected `int` >= 1"},
        {"field": "total", "detail": "Invalid decimal string"},
        {"field": "colour", "detail": "Invalid enum value 'green'"},
    ]


def test_right_input_has_no_faults() -> None:
    assert faults(GOOD, Order) == []


def test_missing_and_unknown_fields_are_named() -> None:
    raw = {key: value for key, value in GOOD.items() if key != "orderId"} | {"extra": 1, "lines": [{"sku": "a", "x": 1}]}

    assert faults(raw, Order) == [
        {"field": "orderId", "detail": "is required"},
        {"field": "lines[0].quantity", "detail": "is required"},
        {"field": "lines[0].x", "detail": "is not known here"},
        {"field": "extra", "detail": "is not known here"},
    ]


def test_unknown_fields_are_ignored_unless_a_struct_forbids_them() -> None:
    assert faults(GOOD | {"payment": {"kind": "card", "number": "1", "x": 1}}, Order) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"lines": []}, ["lines"]),
        ({"lines": [{"sku": "a", "quantity": 1}] * 3 + [{"sku": "", "quantity": 1}]}, ["lines", "lines[3].sku"]),
        ({"payment": {"kind": "cash"}}, ["payment.kind"]),
        ({"payment": {"kind": "invoice", "days": "3"}}, ["payment.days"]),
        ({"payment": {"number": "1"}}, ["payment.kind"]),
        ({"payment": 3}, ["payment"]),
        ({"note": 3}, ["note"]),
        ({"tags": ["a", 1, 2]}, ["tags[1]", "tags[2]"]),
        ({"prices": {"tea": "x", "the best": "y"}}, ["prices.tea", 'prices["the best"]']),
        ({"counts": {"a": 1, "2": "b"}}, ["counts.a", 'counts["2"]']),
        ({"where": [1.5, "b"]}, ["where[1]"]),
        ({"pair": ["a", 1]}, ["pair[0]", "pair[1]"]),
        ({"pair": [1]}, ["pair"]),
        ({"address": {"street": 1}}, ["address.street", "address.floor"]),
        ({"contact": {"age": "x"}}, ["contact.email", "contact.age"]),
        ({"box": {"content": "x"}}, ["box.content"]),
        ({"either": [1, "x"]}, ["either[1]"]),
        ({"either": 1.5}, ["either"]),
        ({"placedAt": "yesterday", "orderId": "1"}, ["orderId", "placedAt"]),
    ],
)
def test_a_fault_is_named_where_it_is(change: dict[str, Any], expected: list[str]) -> None:
    assert fields(GOOD | change) == expected


def test_a_body_of_another_shape_is_one_fault_of_the_body() -> None:
    assert faults([1], Order) == [{"field": "body", "detail": "Expected `object`, got `array`"}]
    assert fields([{}, GOOD], list[Order])[0] == "[0].orderId"


def test_what_a_struct_checks_itself_is_a_fault_too() -> None:
    class Span(msgspec.Struct):
        first: int
        last: int

        def __post_init__(self) -> None:
            if self.last < self.first:
                raise ValueError("last lies before first")

    assert faults({"first": 2, "last": 1}, Span) == [{"field": "body", "detail": "last lies before first"}]


def test_a_long_list_of_faults_ends() -> None:
    assert len(faults(["x"] * 10_000, list[int])) == MAX_FAULTS


def test_texts_are_read_as_what_they_are_meant_to_be() -> None:
    class Filter(msgspec.Struct, forbid_unknown_fields=True):
        limit: int
        colours: list[Colour]
        deep: bool = False

    assert faults({"limit": "3", "colours": ["red"], "deep": "true"}, Filter, strict=False) == []
    assert [one["field"] for one in faults({"limit": "x", "colours": ["red", "green"], "b": "1"}, Filter, strict=False)] == [
        "limit",
        "colours[1]",
        "b",
    ]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
PARTS: dict[str, list[Any]] = {
    "orderId": [GOOD["orderId"], "no", 3],
    "lines": [
        [{"sku": "tea", "quantity": 1}],
        [],
        [{"sku": "tea", "quantity": 1.0}, {"sku": "", "quantity": 101, "gift": 1}],
        [{"sku": "T", "quantity": True, "x": None}, None],
    ],
    "total": ["1.5", 2, 2.5, "x", None],
    "placedAt": ["2026-01-02T03:04:05Z", "2026-01-02", 5, "2026-13-01T00:00:00Z"],
    "colour": ["red", "green", 1],
    "payment": [{"kind": "card", "number": "1"}, {"kind": "invoice", "days": 3.0}, {"kind": "card"}, {"kind": 1}, {}],
    "size": ["s", "xl", 1],
    "note": [None, "x", 1],
    "tags": [[], ["a", "a"], ["a", 1], "a"],
    "prices": [{}, {"a": "1"}, {"a": "b", "c": 1.5}],
    "counts": [{"1": 2}, {"a": 2}, {"1": "b"}, []],
    "where": [None, [1, 2.5], [1], [1, 2, 3], ["a", 1], {"x": 1}],
    "pair": [[1, "a"], ["a", 1], [1], [1, "a", 2]],
    "address": [{"street": "a", "floor": 1}, {"street": 1}, {"street": "a", "floor": 1, "more": 2}],
    "contact": [{"email": "a"}, {"email": 1, "age": "x"}, {}],
    "box": [{"content": 1}, {"content": "x"}, {}],
    "either": [1, "x", [1, 2], [1, "x"], 1.5, {}, None],
    "unknown": [1],
}


@st.composite
def orders(draw: st.DrawFn) -> dict[str, Any]:
    """Orders in which some parts are right and some are wrong."""
    raw: dict[str, Any] = dict(GOOD)
    for name in draw(st.lists(st.sampled_from(sorted(PARTS)), max_size=6)):
        raw[name] = draw(st.sampled_from(PARTS[name]) | JSON)
    for name in draw(st.lists(st.sampled_from(sorted(GOOD)), max_size=1)):
        raw.pop(name, None)
    return raw


@seed(20261123)
@settings(max_examples=400, deadline=None, database=None)
@given(orders() | JSON)
def test_a_fault_is_found_if_and_only_if_msgspec_refuses(raw: Any) -> None:
    body = json.dumps(raw).encode()
    try:
        msgspec.json.decode(body, type=Order)
    except msgspec.ValidationError:
        refused = True
    else:
        refused = False

    found = faults(msgspec.json.decode(body), Order)

    assert bool(found) == refused, found
    assert all(one["field"] and one["detail"] for one in found)
