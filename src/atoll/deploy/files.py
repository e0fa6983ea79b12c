"""Reads what is rendered from, and writes what was rendered; the only module here that touches the system's files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec

from atoll.deploy.images import Sources
from atoll.deploy.plan import Part, Plan
from atoll.errors import SystemMistake
from atoll.provision.job import CONTRACT_FOLDERS
from atoll.system.files import service_files

__all__ = [
    "link_wheels",
    "read_digests",
    "read_given",
    "read_numbers",
    "read_rendered",
    "remove_contracts",
    "sources",
    "write",
    "write_context",
    "write_secrets",
]

_ATOLL = Path(__file__).resolve().parent.parent
# What nobody needs in a container.
_LEFT_OUT = ("deploy/", "testing/")
_RENDERED = b"# Rendered by atoll;"
_LOCKS = Path(__file__).resolve().parent / "locks"


def sources(plan: Plan) -> Sources:
    """All that images are made of, but wheels. Raises SystemMistake."""
    own = {part.name: _own(plan, part) for part in plan.parts if part.kind != "auth"}
    atoll = {path: content for path, content in _contents(_ATOLL).items() if not path.startswith(_LEFT_OUT)}
    locks = {path.stem: path.read_text("utf-8") for path in sorted(_LOCKS.glob("*.txt"))}
    return Sources(atoll, version("atoll"), locks, own)


def _own(plan: Plan, part: Part) -> dict[str, bytes]:
    if part.kind != "simulator":
        return _contents(part.spec.folder)
    package = part.spec.command[2].partition(".")[0]
    folders = [folder for folder in (part.spec.folder, plan.system.folder) if (folder / package).is_dir()]
    if not folders:
        raise SystemMistake(f"the package {package} of {part.name} is not there", where=part.spec.where)
    files = _contents(folders[0] / package)
    lock = {"requirements.txt": files.pop("requirements.txt", b"")}
    return {**{f"{package}/{path}": content for path, content in files.items()}, **lock}


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in service_files(folder)}


def write_context(folder: Path, files: Mapping[str, bytes]) -> None:
    """A build context, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.chmod(path, 0o644)


def link_wheels(wheels: Path, into: Path) -> None:
    """Hard links, since engines are large; copies where the file systems differ."""
    into.mkdir(exist_ok=True)
    for wheel in wheels.glob("*.whl"):
        try:
            os.link(wheel, into / wheel.name)
        except OSError:
            shutil.copyfile(wheel, into / wheel.name)


def write(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Each file whole or not at all; gives the names of those that changed."""
    changed = []
    for name, text in files.items():
        path = folder / name
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(text, "utf-8")
        draft.replace(path)
        changed.append(name)
    return changed


def read_given(folder: Path) -> dict[str, str]:
    """Secrets that an operator wrote, by file name."""
    return {path.name: path.read_text("utf-8").removesuffix("\n") for path in sorted(folder.glob("*")) if path.is_file()}


def read_rendered(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """What was rendered into `folder` before: those names, and whatever else says that it was; secrets apart."""
    found = {name: folder / name for name in names}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        name = path.relative_to(folder).as_posix()
        if not name.startswith("secrets/") and path.is_file() and _was_rendered(path):
            found[name] = path
    return {name: path.read_text("utf-8") for name, path in found.items() if path.is_file()}


def _was_rendered(path: Path) -> bool:
    if _holds_contract(path):
        return True
    with path.open("rb") as file:
        return file.read(len(_RENDERED)) == _RENDERED


def _holds_contract(path: Path) -> bool:
    return path.suffix == ".json" and any(path.parent.match(f"provision/{folder}") for folder in CONTRACT_FOLDERS)


def remove_contracts(folder: Path, names: Iterable[str]) -> list[str]:
    """Those that were rendered into `folder` before, and are not among `names`: provision reads all that lie there."""
    kept = set(names)
    gone = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if _holds_contract(path)}
    for name in gone.keys() - kept:
        gone[name].unlink()
    return sorted(gone.keys() - kept)


def read_numbers(path: Path) -> dict[str, int]:
    """What `cells.json` says; nothing when there is none yet. Raises SystemMistake."""
    if not path.exists():
        return {}
    try:
        return {str(name): int(number) for name, number in json.loads(path.read_bytes()).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise SystemMistake(
            f"it can't be read: {error}", where=str(path), hint="restore it, or remove it and make all anew"
        ) from None


def read_digests(path: Path) -> dict[str, str]:
    """By reference; nothing when nobody has pushed yet. Raises SystemMistake."""
    if not path.exists():
        return {}
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise SystemMistake(f"it can't be read: {error}", where=str(path), hint="remove it, and push again") from None
    return found


def write_secrets(folder: Path, files: Mapping[str, str]) -> None:
    """Into a folder that nobody else may enter; in it, readable by the user of whatever container a file is mounted into."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    for name in write(folder, files):
        os.chmod(folder / name, 0o444)
        os.chmod((folder / name).parent, 0o755)
