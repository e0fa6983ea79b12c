"""Writes what Envoy reads: whole files, renamed into place, only when their content changed.

Envoy keeps its last good configuration whatever it reads, but one that *starts* needs files that are good: so whoever
writes a rejected file puts the last good one back.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from atoll.gateway.ir import Endpoint, Listener
from atoll.gateway.known import Known, SystemEntry
from atoll.gateway.translate import translate
from atoll.gateway.xds import binary, bootstrap, proof
from atoll.gateway.xds.branches import branched
from atoll.gateway.xds.folders import BINARY, PROOF, SECRETS, TYPES, Folders
from atoll.gateway.xds.resources import render
from atoll.gateway.xds.typed import Json

__all__ = [
    "body",
    "forget_unfinished",
    "replace_file",
    "version",
    "write",
    "write_initial",
    "write_listener",
    "write_proof",
    "write_resources",
]


# As `replace_file` and `write_private` call them.
_DRAFT = re.compile(r"\..+\.\d+")


def write_initial(root: Path, listener: Listener, admin: Endpoint, known: Known | SystemEntry) -> Path:
    """Everything that Envoy needs to start, before auth, bus or any service; the bootstrap file. Idempotent.

    With a `Known` that has contracts, their operations answer 503 until replicas announce themselves; without, 404. With
    TLS, `secrets.write_secrets` comes first.
    """
    known = known if isinstance(known, Known) else Known(known)
    folders = Folders(str(root.absolute()))
    gateway = translate(known, listener)
    write_resources(folders, render(gateway, folders))
    write(Path(folders.inputs), known.serialize())
    write_listener(folders, listener)
    write(Path(folders.bootstrap), _pretty(bootstrap.document(folders, admin, gateway.overload)))
    return Path(folders.bootstrap)


def write_listener(folders: Folders, listener: Listener) -> None:
    """What the gateway was started with, beside what it learns (`inputs.json`)."""
    write(Path(folders.listener), _pretty(listener))


def write_resources(folders: Folders, resources: Mapping[str, list[Json]]) -> None:
    """All types, in the order in which they refer to each other, and first what is the same for all systems."""
    write_proof(folders)
    for kind in TYPES:
        write(Path(folders.file(kind)), body(kind, resources[kind]))


def write_proof(folders: Folders) -> None:
    """What new routes are tried with, before there are any; it is there before anything that refers to it."""
    write(Path(folders.file(PROOF)), body(PROOF, proof.nothing()))


def body(kind: str, resources: list[Json]) -> bytes:
    """A discovery response, for Envoy alone: people have `atoll gateway show`. Raises Bug when it can't be said in that form.

    Its version is the digest of its content, so the same content is the same file.
    """
    if kind in BINARY:
        tables = binary.tables([branched(one) for one in resources])
        return binary.response(_digest(tables), tables)
    # Encoded once: with hundreds of services these are megabytes.
    encoded = msgspec.json.encode(resources, order="deterministic")
    return b'{"version_info":"%s","resources":%s}\n' % (_digest(encoded).encode(), encoded)


def _digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()[:16]


# As `body` writes it: in JSON, or as protobuf's field 1 with 16 bytes.
_BEGINNING = re.compile(rb'(?:\{"version_info":"|\n\x10)([0-9a-f]{16})')


def version(content: bytes) -> str:
    """The version that a file's content says it is; "" for what nobody here has written."""
    found = _BEGINNING.match(content)
    return found[1].decode() if found else ""


def write(path: Path, content: bytes) -> bool:
    """Whether the file had to be changed. Creates its directory."""
    try:
        if path.read_bytes() == content:
            return False
    except OSError:
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)
    return True


def replace_file(path: Path, content: bytes) -> None:
    """In one step: a reader sees the old content or the new one."""
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    temporary.write_bytes(content)
    os.replace(temporary, path)


def forget_unfinished(folders: Folders) -> None:
    """Removes what a process that was killed between writing and renaming has left."""
    for directory in (Path(folders.root), *(Path(folders.directory(kind)) for kind in (*TYPES, PROOF, *SECRETS))):
        for draft in directory.glob(".*.*"):
            if _DRAFT.fullmatch(draft.name):
                draft.unlink(missing_ok=True)


def _pretty(document: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"
