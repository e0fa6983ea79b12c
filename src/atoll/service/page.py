"""The one shape of a list in an answer."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

__all__ = ["Page"]

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some of a list. `next` goes into the query parameter `after` of the next call; None at the end."""

    items: list[T]
    next: str | None = None
