"""What rendering again would change: files line by line, contracts in words, and who could no longer read whom. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import PurePosixPath

from atoll.system.compatibility import unreadable
from atoll.system.contract import Contract
from atoll.system.differences import differences

__all__ = ["Changes", "changes"]

_CONTRACTS = "provision/contracts"


@dataclass(frozen=True, slots=True)
class Changes:
    """Lines. `refused`: consumers that could not read what is published then, and what of it; `passing`: those that could not
    until they are replaced.
    """

    refused: tuple[str, ...]
    passing: tuple[str, ...]
    contracts: tuple[str, ...]
    files: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((*self.broken, *self.contracts, *self.files))

    @property
    def broken(self) -> tuple[str, ...]:
        return (*self.refused, *self.passing)

    @property
    def any(self) -> bool:
        return bool(self.broken or self.contracts or self.files)


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> Changes:
    """Between two times of rendering, by path. Raises SystemMistake for a contract that can't be read."""
    old, new = _contracts(before), _contracts(after)
    refused = tuple(_refused(old, new))
    return Changes(refused, tuple(_passing(old, new)), tuple(_said(old, new)), tuple(_lines(before, after)))


def _contracts(files: Mapping[str, str]) -> dict[str, Contract]:
    found = {path: text for path, text in files.items() if _holds_contract(path)}
    return {PurePosixPath(path).stem: Contract.parse(json.loads(text), where=path) for path, text in sorted(found.items())}


def _holds_contract(path: str) -> bool:
    return path.endswith(".json") and str(PurePosixPath(path).parent).endswith(_CONTRACTS)


def _refused(old: Mapping[str, Contract], new: Mapping[str, Contract]) -> Iterator[str]:
    """Consumers that come with it, or stay."""
    for name, publisher in new.items():
        for consumer, contract in new.items():
            yield from (f"{consumer} would break: of {name}, {fault}" for fault in unreadable(publisher, contract))
    for name in sorted(old.keys() - new.keys()):
        takers = [consumer for consumer, one in new.items() if name in one.sources]
        yield from (f"{consumer} would break: {name} is gone, and it consumes its events" for consumer in takers)


def _passing(old: Mapping[str, Contract], new: Mapping[str, Contract]) -> Iterator[str]:
    """Consumers that run now read the new events until they are replaced."""
    for name, publisher in new.items():
        for consumer in sorted(old.keys() & new.keys() - {name}):
            if not unreadable(publisher, new[consumer]):
                still = unreadable(publisher, old[consumer])
                yield from (f"{consumer} would break until it is replaced: of {name}, {fault}" for fault in still)


def _said(old: Mapping[str, Contract], new: Mapping[str, Contract]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            yield f"{name} is new"
        elif name not in new:
            yield f"{name} is gone"
        else:
            yield from (f"{name}: {line}" for line in differences(old[name], new[name]))


def _lines(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """As `diff -u` has them. Contracts were told in words."""
    for path in sorted(before.keys() | after.keys()):
        if not _holds_contract(path):
            texts = (before.get(path, "").splitlines(), after.get(path, "").splitlines())
            yield from unified_diff(*texts, f"before/{path}", f"after/{path}", lineterm="")
