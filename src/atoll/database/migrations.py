"""Numbered migrations: read a folder, compare it with what a database says was applied, give what is pending.

`migrations/0001_orders.sql`, `0002_….sql`, …: from 1, without a gap. A file that was applied is never edited: its checksum
is kept. atoll's own tables are migrated the same way, from the folder `sql` beside this file.

Each file is one transaction. A statement that can't be in one (CREATE INDEX CONCURRENTLY) stands alone in a file whose
first line is `-- atoll: no transaction`; it must be re-runnable, because a crash leaves it started and not finished.

A database may know newer migrations than the folder has: an older replica beside a newer one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from atoll.errors import SystemMistake

__all__ = ["ATOLL", "OWNERS", "SERVICE", "Applied", "Migration", "failed", "names", "owned", "packaged", "pending", "read"]

# Whose tables: atoll's own, or the service's. Both count from 1.
ATOLL = "atoll"
SERVICE = "service"
OWNERS = (ATOLL, SERVICE)

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)")
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_OUTSIDE = re.compile(r"--\s*atoll:\s*no transaction\s*$", re.MULTILINE)


class Migration(msgspec.Struct, frozen=True):
    """One file. `checksum` identifies its text; line ends don't count."""

    number: int
    path: Path
    text: str
    checksum: str
    transactional: bool = True

    @property
    def name(self) -> str:
        """The file's name, as it is shown and recorded."""
        return self.path.name


class Applied(msgspec.Struct, frozen=True):
    """What a database remembers of one. `finished` False: it began outside a transaction and may have to run again."""

    number: int
    name: str
    checksum: str
    finished: bool = True


def packaged(kind: str) -> list[Migration]:
    """atoll's own for one kind of database."""
    return read(Path(__file__).parent / "sql" / kind)


def read(folder: Path | None, suffix: str = ".sql") -> list[Migration]:
    """The folder's migrations in order; none without a folder. Raises SystemMistake that names the file."""
    if folder is None or not folder.is_dir():
        return []
    found = sorted(
        (_parse(path) for path in folder.iterdir() if path.suffix == suffix and not path.name.startswith((".", "_"))),
        key=lambda migration: (migration.number, migration.name),
    )
    for expected, migration in enumerate(found, start=1):
        _check_number(expected, migration, found[expected - 2] if expected > 1 else None)
    return found


def pending(files: Sequence[Migration], applied: Mapping[int, Applied]) -> list[Migration]:
    """Those still to run, in order. Raises SystemMistake: one that was applied is missing or edited, one to run is empty."""
    for number, record in sorted(applied.items()):
        if number <= len(files):
            _check_unchanged(files[number - 1], record)
    waiting = [file for file in files if file.number not in applied or not applied[file.number].finished]
    for file in waiting:
        _check_says_something(file)
    return waiting


def owned(kind: str, folder: Path | None) -> dict[str, list[Migration]]:
    """By whose they are, in the order in which they are applied."""
    return {ATOLL: packaged(kind), SERVICE: read(folder)}


def names(files: Mapping[str, Sequence[Migration]], applied: Mapping[str, Mapping[int, Applied]]) -> list[str]:
    """Of those still to run, both by owner."""
    return [one.name for owner, every in files.items() for one in pending(every, applied[owner])]


def failed(migration: Migration, error: Exception, line: int | None = None) -> SystemMistake:
    """The mistake to raise when a statement of `migration` fails."""
    consequence = "nothing of this file was applied" if migration.transactional else "it will run again"
    return SystemMistake(
        f"migration {migration.name} failed: {error}",
        where=f"{migration.path}:{line}" if line else str(migration.path),
        hint=f"{consequence}; correct the file and start again",
    )


def _parse(path: Path) -> Migration:
    match = _NAME.fullmatch(path.stem)
    if not match:
        raise SystemMistake(
            f"migration {path.name} has no number",
            where=str(path),
            hint=f"name it like 0001_orders{path.suffix}: four digits, an underscore, small letters",
        )
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    first_line = text.split("\n", 1)[0]
    return Migration(
        number=int(match[1]),
        path=path,
        text=text,
        checksum=hashlib.sha256(text.encode()).hexdigest()[:32],
        transactional=not _OUTSIDE.match(first_line),
    )


def _check_number(expected: int, migration: Migration, previous: Migration | None) -> None:
    if previous is not None and migration.number == previous.number:
        raise SystemMistake(
            f"two migrations have the number {migration.number:04}: {previous.name} and {migration.name}",
            where=str(migration.path),
            hint="give the one that was never applied the next free number",
        )
    if migration.number != expected:
        raise SystemMistake(
            f"migration {migration.name} leaves a gap: number {expected:04} is missing",
            where=str(migration.path),
            hint="numbers start at 0001 and have no gaps; restore the missing file or rename this one",
        )


def _check_says_something(file: Migration) -> None:
    """An empty one would count as applied, and could never be filled in."""
    if file.path.suffix == ".sql" and not _COMMENT.sub("", file.text).strip(" \n\t;"):
        raise SystemMistake(
            f"migration {file.name} holds no statement", where=str(file.path), hint="write it, or remove the file"
        )


def _check_unchanged(file: Migration, record: Applied) -> None:
    if file.name != record.name:
        raise SystemMistake(
            f"migration {record.name} was applied to this database and is missing; {file.name} stands in its place",
            where=str(file.path),
            hint=f"restore {record.name}; a new change is a new file with the next number",
        )
    if file.checksum != record.checksum and record.finished:
        raise SystemMistake(
            f"migration {file.name} was edited after it was applied",
            where=str(file.path),
            hint="restore its text; a new change is a new file with the next number",
        )
