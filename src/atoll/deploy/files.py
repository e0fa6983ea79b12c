"""Reads what is rendered from, and writes what was rendered; the only module here that touches the system's files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from atoll.deploy.entrance import CERTIFICATE, KEY
from atoll.deploy.environment import key_set_files, key_set_path
from atoll.deploy.images import Sources
from atoll.deploy.plan import Part, Plan
from atoll.errors import SystemMistake
from atoll.provision.job import CONTRACT_FOLDERS
from atoll.system.files import service_files
from atoll.system.manifest import System

__all__ = [
    "link_wheels",
    "read_digests",
    "read_given",
    "read_numbers",
    "read_pair",
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
_CACHES = ("__pycache__", "venv", "tests")
_RENDERED = b"# Rendered by atoll;"
_LOCKS = Path(__file__).resolve().parent / "locks"


def sources(plan: Plan) -> Sources:
    """All that images are made of, but wheels. Raises SystemMistake."""
    own = {part.name: _own(plan, part) for part in plan.parts}
    found = {path.relative_to(_ATOLL).as_posix(): path.read_bytes() for path in service_files(_ATOLL)}
    atoll = {path: content for path, content in found.items() if not path.startswith(_LEFT_OUT)}
    locks = {path.stem: path.read_text("utf-8") for path in sorted(_LOCKS.glob("*.txt"))}
    return Sources(atoll, version("atoll"), locks, own)


def _own(plan: Plan, part: Part) -> dict[str, bytes]:
    if part.kind == "auth":
        return _key_sets(plan)
    if part.kind != "simulator":
        return _of_service(part)
    package = part.spec.command[2].partition(".")[0]
    folders = [folder for folder in (part.spec.folder, plan.system.folder) if (folder / package).is_dir()]
    if not folders:
        raise SystemMistake(f"the package {package} of {part.name} is not there", where=part.spec.where)
    files = _contents(folders[0] / package)
    lock = {"requirements.txt": files.pop("requirements.txt", b"")}
    return {**{f"{package}/{path}": content for path, content in files.items()}, **lock}


def _of_service(part: Part) -> dict[str, bytes]:
    """What is built of a page (`dist`, `build`) is part of it. Of a `command`, its Node packages are too."""
    if part.foreign and not part.spec.folder.is_dir():
        hint = "its image is made of that folder, in which its command is started"
        raise SystemMistake(f"{part.name} has no folder {part.spec.folder}", where=part.spec.where, hint=hint)
    return _contents(part.spec.folder, () if part.foreign else ("node_modules",))


def _key_sets(plan: Plan) -> dict[str, bytes]:
    """Those of other issuers that are files."""
    found = {}
    for name, path in key_set_files(plan.system).items():
        try:
            found[key_set_path(name)] = Path(path).read_bytes()
        except OSError as error:
            where = str(plan.system.folder / "atoll.toml")
            raise SystemMistake(f"the keys of the provider {name} can't be read: {error}", where=where) from None
    return found


def _contents(folder: Path, ignored: Collection[str] = ()) -> dict[str, bytes]:
    found = service_files(folder, {*_CACHES, *ignored})
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


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


def read_pair(system: System, given: Path, now: datetime) -> dict[str, str]:
    """The gateway's certificate and key: those among the secrets that an operator wrote, else those that the manifest names.

    Nothing where neither is there, or without TLS. Raises SystemMistake: what is wrong with them.
    """
    if (tls := system.gateway.tls) is None:
        return {}
    for certificate, key in ((given / CERTIFICATE, given / KEY), (tls.certificate, tls.key)):
        if certificate and key and (certificate.exists() or key.exists()):
            from atoll.certificates.pair import Pair

            pair = Pair.read(certificate, key, now, tls.where)
            return {CERTIFICATE: pair.chain.decode(), KEY: pair.key.decode()}
    return {}


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
