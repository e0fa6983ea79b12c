"""What the SQL kinds have in common: the statements of a transaction, and what may not be written in one.

Placeholders are `$1`, `$2`, … on every kind. Transactions belong to atoll, so BEGIN, COMMIT and their kin are refused.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

from atoll.database.ports import OutboxRow
from atoll.database.rows import plan
from atoll.errors import Bug, NotFound

__all__ = ["Statements", "checked", "ended", "numbered", "publishes_nothing"]

T = TypeVar("T")

# Strings, quoted names and comments are passed over; what is left of `$1` is a placeholder.
_PARTS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/|\$(\d+)""", re.DOTALL)
_LEADING = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_CONTROL = re.compile(
    r"(begin|start\s+transaction|commit|end|rollback|abort|savepoint|release|prepare\s+transaction)\b", re.IGNORECASE
)


@lru_cache(maxsize=1024)
def checked(sql: str) -> str:
    """`sql` itself. Raises Bug when it controls transactions."""
    start = _LEADING.match(sql)
    if control := _CONTROL.match(sql, start.end() if start else 0):
        raise Bug(
            f"{control[1].upper()} is not for a handler: the transaction is atoll's",
            hint="returning commits, raising rolls back; `database.transaction()` opens one of your own",
        )
    return sql


@lru_cache(maxsize=1024)
def numbered(sql: str) -> str:
    """`sql` with SQLite's `?1` for `$1`. Raises Bug as `checked` does."""
    return _PARTS.sub(lambda match: f"?{match[1]}" if match[1] else match[0], checked(sql))


def ended() -> Bug:
    """The Bug of a transaction that is used outside its block."""
    return Bug("this transaction has ended", hint="use it inside its `async with`, and not from a task that outlives it")


def publishes_nothing() -> Bug:
    """The Bug of publishing in a reader."""
    return Bug(
        "a reader can't publish",
        hint="GET handlers only read; publish where something changes: in post, put, patch, delete or an event's handler",
    )


class Statements(ABC):
    """SQL as handlers write it. Rows become the type that is asked for, by column name."""

    _json_is_text: ClassVar[bool] = False

    __slots__ = ()

    @abstractmethod
    async def fetch(self, sql: str, *args: Any) -> tuple[tuple[str, ...], Sequence[Sequence[Any]]]:
        """Column names and rows as the driver gives them."""

    @abstractmethod
    async def execute(self, sql: str, *args: Any) -> int:
        """The number of rows inserted, updated or deleted."""

    async def one(self, type_: type[T], sql: str, *args: Any) -> T:
        """The only row. Raises NotFound when there is none, Bug when there are several or one doesn't fit `type_`."""
        row = await self.one_or_none(type_, sql, *args)
        if row is None:
            raise NotFound(f"there is no such {_spoken(type_)}")
        return row

    async def one_or_none(self, type_: type[T], sql: str, *args: Any) -> T | None:
        """The only row, or None. Raises Bug when there are several or it doesn't fit `type_`."""
        columns, rows = await self.fetch(sql, *args)
        if not rows:
            return None
        if len(rows) > 1:
            raise Bug(f"{len(rows)} rows where one was asked for", hint="use all(), or say LIMIT 1")
        value: T = plan(type_, columns, self._json_is_text).one(rows[0])
        return value

    async def all(self, type_: type[T], sql: str, *args: Any) -> list[T]:
        """Every row, in the statement's order. Raises Bug when one doesn't fit `type_`."""
        columns, rows = await self.fetch(sql, *args)
        return plan(type_, columns, self._json_is_text).all(rows) if rows else []

    async def scalar(self, sql: str, *args: Any) -> Any:
        """The first column of the first row; None without a row."""
        _, rows = await self.fetch(sql, *args)
        return rows[0][0] if rows else None


def outbox_values(rows: Sequence[OutboxRow]) -> list[tuple[str, str, str, bytes, bytes]]:
    """The rows as an INSERT takes them: id, subject, key, headers, body."""
    return [(row.id, row.subject, row.key, row.headers, row.body) for row in rows]


def _spoken(type_: Any) -> str:
    """`OrderLine` as people say it."""
    name = getattr(type_, "__name__", str(type_))
    return "row" if type_ is dict else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
