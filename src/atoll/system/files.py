"""A system's files: the manifest, and the accepted contracts beside it. The only module of this room that touches a disk."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atoll.errors import SystemMistake
from atoll.system.contract import Contract
from atoll.system.differences import differences
from atoll.system.manifest import ServiceSpec, System, parse

__all__ = ["Difference", "accept", "accepted", "compare", "contract_path", "find", "load_contract", "read", "service_files"]

MANIFEST = "atoll.toml"
_IGNORED = frozenset({"__pycache__", "node_modules", "venv", "tests", "build", "dist"})
_NAMED = 6  # changes of one contract; more would not be read


@dataclass(frozen=True, slots=True)
class Difference:
    """How a derived contract differs from the accepted one. `accepted` None: there is none yet."""

    service: str
    accepted: Contract | None
    derived: Contract

    def __str__(self) -> str:
        take = f"`atoll contract accept {self.service}` takes it, for git to show and keep"
        if self.accepted is None:
            return f"{self.service} has no accepted contract yet; {take}"
        changes = differences(self.accepted, self.derived)
        rest = f" and {len(changes) - _NAMED} more" if len(changes) > _NAMED else ""
        return f"{self.service} differs from its accepted contract: {', '.join(changes[:_NAMED])}{rest}; {take}"


def find(start: Path) -> Path:
    """The folder of the system around `start`: the nearest one upwards with an atoll.toml. Raises SystemMistake."""
    for folder in (start, *start.parents):
        if (folder / MANIFEST).is_file():
            return folder
    raise SystemMistake(f"there is no {MANIFEST} in {start} or above it", hint="change into a system's folder, or `-C FOLDER`")


def read(folder: Path, environment: str = "") -> System:
    """The system in `folder`, its services' folders checked. Raises SystemMistake with file:line."""
    path = folder / MANIFEST
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise SystemMistake(f"the manifest can't be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise SystemMistake(f"the manifest is not UTF-8: {error}", where=str(path)) from error
    system = parse(text, path, environment)
    for spec in system.services:
        _check_files(spec)
        if spec.canary:
            _check_files(replace(spec, folder=spec.canary.folder, python=spec.canary.python))
    return system


def _check_files(spec: ServiceSpec) -> None:
    if spec.contract is not None and not spec.contract.is_file():
        hint = "write it by hand; `atoll describe` of another service shows the shape"
        raise SystemMistake(f"the contract of {spec.name}, {spec.contract}, does not exist", where=spec.where, hint=hint)
    if spec.command:
        return
    module = spec.folder / spec.name / "service.py"
    if not module.is_file():
        hint = f"a service {spec.name} is found as {spec.name}.service:service in {spec.folder}"
        raise SystemMistake(f"{module} does not exist", where=spec.where, hint=hint)
    if spec.python is not None and not os.access(spec.python, os.X_OK):
        hint = f"make it: python -m venv {spec.python.parent.parent}, then install atoll and the service into it"
        raise SystemMistake(f"the interpreter of {spec.name}, {spec.python}, does not exist", where=spec.where, hint=hint)


def contract_path(system: System, service: str) -> Path:
    return system.folder / "contracts" / f"{service}.json"


def load_contract(path: Path) -> Contract:
    """Raises SystemMistake that names the file."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise SystemMistake(f"this contract can't be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise SystemMistake(f"this contract is not JSON: {error}", where=str(path)) from error
    return Contract.parse(document, where=str(path))


def accepted(system: System, service: str) -> Contract | None:
    """The contract in git, None when there is none yet. Raises SystemMistake."""
    path = contract_path(system, service)
    return load_contract(path) if path.is_file() else None


def compare(system: System, derived: Mapping[str, Contract]) -> list[Difference]:
    """Every derived contract that is not the accepted one, by service name."""
    found = []
    for name, contract in sorted(derived.items()):
        known = accepted(system, name)
        if known is None or known.digest != contract.digest:
            found.append(Difference(name, known, contract))
    return found


def accept(system: System, contract: Contract) -> Path:
    """Writes it beside the manifest, for git. Gives the path."""
    path = contract_path(system, contract.service)
    path.parent.mkdir(exist_ok=True)
    _write(path, contract.document)
    return path


def service_files(folder: Path, ignored: Collection[str] = _IGNORED) -> Iterator[Path]:
    """The files a service is made of: its folder without tests, environments, caches (folders `ignored`) and what is hidden.

    Pipes and sockets are none: who reads one waits for somebody to write.
    """
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in ignored)
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and not name.endswith((".pyc", ".sqlite", ".log")) and path.is_file():
                yield path


def _write(path: Path, document: Mapping[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
    os.replace(draft, path)
