"""Rows into the type a service asks for, and a service's values into what a database takes.

A plan is made once per (type, columns) and kept: which columns the type wants, under which name, and which hold JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
from msgspec import inspect

from atoll.errors import Bug

__all__ = ["Plan", "plain", "plain_all", "plan", "to_json"]

Row = Sequence[Any]

_CONTAINERS = (
    inspect.StructType,
    inspect.DictType,
    inspect.ListType,
    inspect.SetType,
    inspect.FrozenSetType,
    inspect.VarTupleType,
    inspect.TupleType,
    inspect.NamedTupleType,
    inspect.TypedDictType,
    inspect.DataclassType,
)
_PLAIN = frozenset((int, str, bytes, float, type(None), bool))


class Plan:
    """Turns rows of one set of columns into one type."""

    __slots__ = ("_columns", "_name", "_prepare", "_type", "_types")

    def __init__(self, type_: Any, columns: tuple[str, ...], *, json_is_text: bool) -> None:
        self._type = type_
        self._types = list[type_]
        self._columns = columns
        self._name = getattr(type_, "__name__", str(type_))
        self._prepare = _preparation(type_, columns, json_is_text)

    def one(self, row: Row) -> Any:
        """Raises Bug when a value doesn't fit its field."""
        value = self._prepare(row)
        if self._type is dict:
            return value
        try:
            return msgspec.convert(value, self._type, strict=False)
        except msgspec.ValidationError as error:
            raise self._misfit(error) from error

    def all(self, rows: Sequence[Row]) -> list[Any]:
        """Raises Bug when a value doesn't fit its field."""
        prepare = self._prepare
        values = [prepare(row) for row in rows]
        if self._type is dict:
            return values
        try:
            return msgspec.convert(values, self._types, strict=False)
        except msgspec.ValidationError as error:
            raise self._misfit(error) from error

    def _misfit(self, error: msgspec.ValidationError) -> Bug:
        return Bug(
            f"a row does not fit {self._name}: {error}",
            hint=f"the statement gives the columns {', '.join(self._columns)}",
        )


_plans: dict[tuple[Any, tuple[str, ...], bool], Plan] = {}


def plan(type_: Any, columns: tuple[str, ...], json_is_text: bool = False) -> Plan:
    """The plan for rows of `columns`, made once. `json_is_text`: the database gives JSON columns as text."""
    key = (type_, columns, json_is_text)
    found = _plans.get(key)
    if found is None:
        found = _plans[key] = Plan(type_, columns, json_is_text=json_is_text)
    return found


def plain(value: Any) -> Any:
    """`value` as SQLite stores it: decimals, UUIDs and times as text that sorts, structs and containers as JSON text."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    return _as_text(value)


def plain_all(values: Sequence[Any]) -> Sequence[Any]:
    """`plain` of each; the same object when there is nothing to do."""
    if _PLAIN.issuperset(map(type, values)):
        return values
    return [value if type(value) in _PLAIN else _as_text(value) for value in values]


def to_json(value: Any) -> str:
    """JSON text of a struct or container."""
    return msgspec.json.encode(value).decode()


def _as_text(value: Any) -> Any:
    match value:
        case Enum():
            return plain(value.value)
        case Decimal():
            return format(value, "f")
        case UUID():
            return str(value)
        case datetime():
            moment = value.astimezone(UTC) if value.tzinfo else value
            return moment.isoformat(timespec="microseconds")
        case date() | time():
            return value.isoformat()
        case bytearray() | memoryview() | int() | float() | str():
            return value
        case _:
            return to_json(value)


def _preparation(type_: Any, columns: tuple[str, ...], json_is_text: bool) -> Callable[[Row], Any]:
    """What makes of a row the dict that msgspec converts."""
    fields = _fields(type_)
    if fields is None:
        return lambda row: dict(zip(columns, row, strict=True))
    places = [(index, fields[column]) for index, column in enumerate(columns) if column in fields]
    json_places = {index for index, field in places if json_is_text and _holds_json(field.type)}
    names = tuple(field.encode_name for _, field in places)
    if json_places:
        pairs = [(index, field.encode_name, index in json_places) for index, field in places]
        return lambda row: {name: _from_json(row[i]) if is_json else row[i] for i, name, is_json in pairs}
    if len(places) == len(columns):
        return lambda row: dict(zip(names, row, strict=True))
    indexes = tuple(index for index, _ in places)
    return lambda row: {name: row[index] for name, index in zip(names, indexes, strict=True)}


def _fields(type_: Any) -> Mapping[str, inspect.Field] | None:
    """The fields by column name, None when the type takes whatever comes."""
    if type_ is dict:
        return None
    info = inspect.type_info(type_)
    if isinstance(info, inspect.StructType | inspect.DataclassType | inspect.TypedDictType | inspect.NamedTupleType):
        return {field.name: field for field in info.fields}
    if isinstance(info, inspect.DictType):
        return None
    raise Bug(
        f"rows can't become {getattr(type_, '__name__', type_)}",
        hint="ask for a Struct, a dataclass or dict; a single value comes from scalar()",
    )


def _holds_json(info: inspect.Type) -> bool:
    if isinstance(info, inspect.UnionType):
        kinds = [kind for kind in info.types if not isinstance(kind, inspect.NoneType)]
        return bool(kinds) and all(_holds_json(kind) for kind in kinds)
    if isinstance(info, inspect.Metadata):
        return _holds_json(info.type)
    return isinstance(info, _CONTAINERS)


def _from_json(value: Any) -> Any:
    return msgspec.json.decode(value) if isinstance(value, str | bytes) else value
