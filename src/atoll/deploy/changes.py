"""What rendering again would change: files line by line, contracts in words, and who could no longer read whom. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import PurePosixPath

from atoll.deploy.provisioning import contracts_in
from atoll.provision.job import CANARIES_FOLDER, CONTRACT_FOLDERS, FORMER_FOLDER
from atoll.registry.replica import canaries
from atoll.system.compatibility import unreadable
from atoll.system.contract import Contract
from atoll.system.differences import differences

__all__ = ["Changes", "changes"]

_FOLDERS = tuple(f"provision/{name}" for name in CONTRACT_FOLDERS)


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
    old, new = _versions(before), _versions(after)
    refused = tuple(_refused(old, new))
    said = (*_said(old, new), *_said_of_former(before, after))
    return Changes(refused, tuple(_passing(old, new)), said, tuple(_lines(before, after)))


def _holds_contract(path: str) -> bool:
    return path.endswith(".json") and str(PurePosixPath(path).parent).endswith(_FOLDERS)


def _versions(files: Mapping[str, str]) -> dict[str, Contract]:
    """Of services, and of their canaries by another name."""
    tried = contracts_in(files, CANARIES_FOLDER)
    return contracts_in(files) | {canaries(name): one for name, one in tried.items()}


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


def _said_of_former(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    old, new = contracts_in(before, FORMER_FOLDER), contracts_in(after, FORMER_FOLDER)
    for key in sorted(new.keys() - old.keys()):
        yield f"{new[key].service}: replicas of the contract {new[key].digest} may consume what they do until they have left"
    for key in sorted(old.keys() - new.keys()):
        yield f"{old[key].service}: what only the former contract {old[key].digest} consumes is taken away"


def _lines(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """As `diff -u` has them. Contracts were told in words."""
    for path in sorted(before.keys() | after.keys()):
        if not _holds_contract(path):
            texts = (before.get(path, "").splitlines(), after.get(path, "").splitlines())
            yield from unified_diff(*texts, f"before/{path}", f"after/{path}", lineterm="")
