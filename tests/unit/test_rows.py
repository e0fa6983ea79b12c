"""Rows into types, and values into what SQLite stores."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, TypedDict
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from atoll.database.rows import plain, plain_all, plan
from atoll.errors import Bug


class Renamed(Struct, rename="camel"):
    order_id: int
    unit_price: Decimal = Decimal(0)


class Strict(Struct, forbid_unknown_fields=True):
    id: int


class Holder(Struct):
    lines: list[int] | None
    words: dict[str, str]
    text: str
    either: str | list[int] = ""


@dataclass
class Plain:
    id: int


class Typed(TypedDict):
    id: int


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(("type_", "expected"), [(Strict, Strict(1)), (Plain, Plain(1)), (Typed, {"id": 1}), (dict, {"id": 1})])
def test_a_row_becomes_what_is_asked_for(type_: Any, expected: Any) -> None:
    made = plan(type_, ("id",))
    assert made.one((1,)) == expected
    assert made.all([(1,), (1,)]) == [expected, expected]


def test_a_dict_keeps_every_column() -> None:
    assert plan(dict, ("id", "other")).one((1, 2)) == {"id": 1, "other": 2}


def test_columns_are_matched_by_the_fields_name_not_by_what_it_is_called_in_json() -> None:
    assert plan(Renamed, ("unit_price", "order_id")).one(("1.50", 7)) == Renamed(7, Decimal("1.50"))


def test_columns_that_the_type_does_not_know_are_left_out() -> None:
    assert plan(Strict, ("other", "id")).all([("x", 1)]) == [Strict(1)]


def test_json_text_is_decoded_for_fields_that_hold_something() -> None:
    made = plan(Holder, ("lines", "words", "text", "either"), json_is_text=True)
    assert made.one(("[1,2]", '{"a":"b"}', "[1]", "[1]")) == Holder([1, 2], {"a": "b"}, "[1]", "[1]")
    assert made.one((None, "{}", "", "")) == Holder(None, {}, "", "")


def test_a_plan_is_made_once() -> None:
    assert plan(Strict, ("id",)) is plan(Strict, ("id",))
    assert plan(Strict, ("id",)) is not plan(Strict, ("id", "x"))


def test_a_type_that_rows_cannot_become_is_a_bug() -> None:
    with pytest.raises(Bug, match="rows can't become int"):
        plan(int, ("id",))


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Decimal("1E+2"), "100"),
        (Decimal("0.10"), "0.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1))), "2026-01-02T02:04:05.000000+00:00"),
        (datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05.000000"),
        (date(2026, 1, 2), "2026-01-02"),
        (Colour.RED, "red"),
        ([1, 2], "[1,2]"),
        ({"a": Decimal("1.5")}, '{"a":"1.5"}'),
        (Strict(1), '{"id":1}'),
        (True, True),
        (None, None),
    ],
)
def test_values_are_stored_as_text_that_comes_back(value: Any, stored: Any) -> None:
    assert plain(value) == stored


def test_values_that_need_nothing_are_passed_on_as_they_are() -> None:
    values = (1, "a", b"b", 1.5, None, True)
    assert plain_all(values) is values


@given(
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=-11, minutes=-30))]))
)
def test_moments_come_back_equal(moment: datetime) -> None:
    assert datetime.fromisoformat(plain(moment)) == moment


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_decimals_come_back_equal(number: Decimal) -> None:
    assert Decimal(plain(number)) == number
