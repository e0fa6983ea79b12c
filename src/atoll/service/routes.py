"""Finds the operation for a verb and a path: literal segments beat parameters, whatever was declared first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import unquote

__all__ = ["Routes"]

T = TypeVar("T")
Found = tuple[dict[str, T], tuple[str, ...]]


@dataclass(slots=True)
class _Node(Generic[T]):
    """One place in the tree of segments. `rest` takes everything that is left."""

    literal: dict[str, _Node[T]] = field(default_factory=dict)
    parameter: _Node[T] | None = None
    rest: dict[str, T] = field(default_factory=dict)
    verbs: dict[str, T] = field(default_factory=dict)


class Routes(Generic[T]):
    """Built once from (method, template, target)."""

    def __init__(self, declared: Iterable[tuple[str, str, T]]) -> None:
        self._exact: dict[str, Found[T]] = {}
        self._root: _Node[T] = _Node()
        for method, path, target in declared:
            if "{" not in path:
                self._exact.setdefault(path, ({}, ()))[0][method] = target
            self._add(path, method, target)

    def find(self, scope_path: str, raw_path: bytes | None = None) -> Found[T] | None:
        """The verbs of the best path that matches, with its parameters' values; None when none does.

        `raw_path` tells an escaped slash from a slash.
        """
        if (found := self._exact.get(scope_path)) is not None and not (raw_path and b"%" in raw_path):
            return found
        if raw_path and b"%" in raw_path:
            segments = [unquote(one) for one in raw_path.decode("latin-1").split("/")[1:]]
        else:
            segments = scope_path.split("/")[1:]
        return _search(self._root, segments, 0)

    def _add(self, path: str, method: str, target: T) -> None:
        node = self._root
        for segment in path.split("/")[1:]:
            if segment.endswith(":path}"):
                node.rest[method] = target
                return
            if segment.startswith("{"):
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literal.setdefault(segment, _Node())
        node.verbs[method] = target


def _search(node: _Node[T], segments: list[str], depth: int) -> Found[T] | None:
    if depth == len(segments):
        return (node.verbs, ()) if node.verbs else None
    segment = segments[depth]
    below = node.literal.get(segment)
    if below is not None and (found := _search(below, segments, depth + 1)) is not None:
        return found
    if segment and node.parameter is not None and (found := _search(node.parameter, segments, depth + 1)) is not None:
        return found[0], (segment, *found[1])
    return (node.rest, ("/".join(segments[depth:]),)) if node.rest else None
