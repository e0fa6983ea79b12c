"""Environment variables whose values are secrets may lie in files: `NAME_FILE` says where, as containers are given secrets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from atoll.errors import SystemMistake

__all__ = ["in_file", "with_files"]

_SUFFIX = "_FILE"
_OURS = ("ATOLL_", "AUTH_")


def with_files(variables: Mapping[str, str]) -> dict[str, str]:
    """`variables`, and for every `ATOLL_…_FILE` and `AUTH_…_FILE` the variable without `_FILE`, as that file has it.

    Raises SystemMistake for a file that can't be read, and for a variable that is given both ways.
    """
    found = dict(variables)
    for name in variables:
        if name.startswith(_OURS) and name.endswith(_SUFFIX):
            plain = name.removesuffix(_SUFFIX)
            found[plain] = in_file(plain, variables)
    return found


def in_file(name: str, variables: Mapping[str, str]) -> str:
    """The text of the file that `NAME_FILE` names, without the newline at its end. Raises SystemMistake, see above."""
    if variables.get(name):
        raise SystemMistake(f"{name} and {name}{_SUFFIX} are both set", hint="remove one of them")
    path = variables[name + _SUFFIX]
    try:
        return Path(path).read_text("utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SystemMistake(
            f"{name}{_SUFFIX} names {path}, which can't be read: {reason}", hint="a process needs the right to read its secrets"
        ) from error
