"""What auth needs of a transaction. PostgreSQL's and SQLite's both have it, so the same statements run on either."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

__all__ = ["Transaction"]

T = TypeVar("T")


class Transaction(Protocol):
    """Statements with `$1` placeholders; see `atoll.database.statements` for what each promises."""

    async def one_or_none(self, type_: type[T], sql: str, *args: Any) -> T | None: ...

    async def one(self, type_: type[T], sql: str, *args: Any) -> T: ...

    async def all(self, type_: type[T], sql: str, *args: Any) -> list[T]: ...

    async def scalar(self, sql: str, *args: Any) -> Any: ...

    async def execute(self, sql: str, *args: Any) -> int: ...

    async def publish(self, event: Any) -> None: ...
