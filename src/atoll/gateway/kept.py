"""Functions that do not compute again what they have computed for the snapshot before: most of it is what it was.

They are pure, so nobody sees it but by the time they take. What they give is shared: nobody may change it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, TypeVarTuple

__all__ = ["Kept", "Same"]

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")


class Kept(Generic[*_Arguments, _T]):
    """`function`, with what it gave in this round and the last one; so there is never more than two snapshots' worth."""

    def __init__(self, function: Callable[[*_Arguments], _T]) -> None:
        self._function = function
        self._now: dict[Any, _T] = {}
        self._before: dict[Any, _T] = {}

    def begin(self) -> None:
        """A round: what is not asked for in it is forgotten with the next one."""
        self._now, self._before = {}, self._now

    def __call__(self, *arguments: *_Arguments) -> _T:
        if arguments in self._now:
            return self._now[arguments]
        found = self._before[arguments] if arguments in self._before else self._function(*arguments)
        self._now[arguments] = found
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Same(Generic[_T]):
    """An argument that is equal to the very same object alone: contracts are large, and comparing them would cost what is to
    be saved. It keeps the object alive, so that no other one takes its place.
    """

    it: _T

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.it is self.it

    def __hash__(self) -> int:
        return id(self.it)
