"""A key for one object, where comparing its content would cost what is to be saved: contracts are large, and stay the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Same"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class Same(Generic[_T]):
    """Equal to another one of the very same object, which it keeps alive, so that no other one takes its place."""

    it: _T

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.it is self.it

    def __hash__(self) -> int:
        return id(self.it)
