"""A Docker engine of the tests' own: installed when it is missing, started by hand, stopped at the end. Linux and root only.

There is no registry, so the base image is made from Debian's packages. It, built layers and wheels are kept between runs in
ATOLL_ENGINE_CACHE (default: ~/.cache/atoll-engine); nothing else is, so that a run finds what the one before it found.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import IO

from tests.support.waiting import until_sync

BASE = "atoll-base:bookworm"
_PACKAGES = ("docker.io", "docker-compose", "containerd", "runc", "iptables", "debootstrap", "iproute2")
_NEEDED = ("dockerd", "docker", "docker-compose", "runc", "iptables", "debootstrap", "ip", "setpriv")
# What mongod and Python link to, and nothing that only a person would need.
_INCLUDED = "python3-minimal,libpython3-stdlib,libcurl4,libssl3,ca-certificates"
_CHAINS = {"filter": ("INPUT", "FORWARD", "OUTPUT"), "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")}
_TURN, _PATIENCE_S = Path("/run/atoll-engine.lock"), 7200.0
_LEFT_OUT = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")


class CannotRun(Exception):
    """Why there can be no engine here."""


@dataclass(frozen=True)
class Engine:
    """One that runs. `variables` lead clients to it."""

    socket: Path

    @property
    def variables(self) -> dict[str, str]:
        return {"DOCKER_HOST": f"unix://{self.socket}"}

    def run(self, *arguments: str, timeout_s: float = 600.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *arguments], env={**os.environ, **self.variables}, capture_output=True, text=True, timeout=timeout_s
        )

    def docker(self, *arguments: str, timeout_s: float = 600.0) -> str:
        """What it printed. Fails the test when it fails."""
        done = self.run(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout


def cache() -> Path:
    return Path(os.environ.get("ATOLL_ENGINE_CACHE") or Path.home() / ".cache" / "atoll-engine")


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """Raises CannotRun. `folder` has to be short: sockets lie in it."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise CannotRun("a Docker engine of its own needs Linux and root")
    install(_NEEDED, _PACKAGES)
    found = Engine(folder / "docker.sock")
    with firewall_kept(), (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(_command(folder, found), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            until_sync(lambda: process.poll() is not None or _answers(found), 60, "dockerd answers")
            if process.poll() is not None:
                raise CannotRun(f"dockerd ended:\n{(folder / 'dockerd.log').read_text()[-3000:]}")
            _empty(found)  # a run that was killed has left what would start again
            _provide_base(found)
            yield found
            _empty(found)
        finally:
            _end(process)


def _empty(engine: Engine) -> None:
    """Of containers, their volumes and networks: all that is there is the tests' own."""
    if left := engine.docker("ps", "--all", "--quiet").split():
        engine.docker("rm", "--force", "--volumes", *left)
    if left := engine.docker("volume", "ls", "--quiet").split():
        engine.docker("volume", "rm", *left)
    engine.docker("network", "prune", "--force")


def _end(process: subprocess.Popen[bytes]) -> None:
    """With whatever it has started, if it does not end by itself."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@once
def _our_turn() -> IO[bytes]:
    """One process at a time has engines on this machine; who comes second waits. It is ours until we end.

    Two would take each other's rules away, and share what an engine keeps.
    """
    file = _TURN.open("wb")

    def taken() -> bool:
        with suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    if not taken():
        print("waiting for another process that has engines here", file=sys.__stderr__, flush=True)
        until_sync(taken, _PATIENCE_S, f"whoever has {_TURN} ends")
    return file


@contextmanager
def firewall_kept() -> Iterator[None]:
    """A stopped engine leaves its rules behind, and Docker's forwards nothing for anybody else any more."""
    _our_turn()
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before, rules = forwarding.read_text(), {table: _rules(table) for table in _CHAINS}
    try:
        yield
    finally:
        for text in rules.values():
            subprocess.run(["iptables-restore"], input=text, text=True, check=True)
        forwarding.write_text(before)


def _rules(table: str) -> str:
    """As `iptables-restore` takes them, also of a table that is not there yet."""
    saved = subprocess.run(["iptables-save", "-t", table], capture_output=True, text=True, check=True).stdout
    chains = "".join(f":{chain} ACCEPT [0:0]\n" for chain in _CHAINS[table])
    return saved if "COMMIT" in saved else f"*{table}\n{chains}COMMIT\n"


def _command(folder: Path, engine: Engine) -> list[str]:
    data = cache() / "docker"
    data.mkdir(parents=True, exist_ok=True)
    arguments = ["--data-root", str(data), "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "docker.pid")]
    arguments += ["--host", f"unix://{engine.socket}", "--bridge", "none", "--log-level", "warn"]
    # It ends with us: who is killed would leave it, and it would keep the data for itself.
    return ["setpriv", "--pdeathsig", "TERM", "dockerd", *arguments]


def install(needed: Sequence[str], packages: Sequence[str]) -> None:
    """Debian's `packages`, where a program of `needed` is missing. Raises CannotRun."""
    if all(map(shutil.which, needed)):
        return
    if not shutil.which("apt-get"):
        raise CannotRun(f"{', '.join(one for one in needed if not shutil.which(one))} are missing, and there is no apt-get")
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["apt-get", "-qq", *command], env=variables, capture_output=True, text=True)
        if done.returncode:
            raise CannotRun(f"apt-get {' '.join(command)}:\n{done.stderr[-3000:]}")


def _answers(engine: Engine) -> bool:
    return subprocess.run(["docker", "version"], env={**os.environ, **engine.variables}, capture_output=True).returncode == 0


def _provide_base(engine: Engine) -> None:
    environment = {**os.environ, **engine.variables}
    if subprocess.run(["docker", "image", "inspect", BASE], env=environment, capture_output=True).returncode == 0:
        return
    with _base().open("rb") as tar:
        subprocess.run(["docker", "import", "-", BASE], env=environment, stdin=tar, check=True, stdout=subprocess.DEVNULL)


def _base() -> Path:
    """Debian with Python, as a tar file."""
    tar = (cache() / "base.tar").resolve()  # a benchmark has a cache of its own, with a link to ours
    if not tar.exists():
        place = cache() / "base"
        shutil.rmtree(place, ignore_errors=True)
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={_INCLUDED}", "bookworm", str(place)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise CannotRun(f"debootstrap failed:\n{done.stdout[-3000:]}")
        for name in _LEFT_OUT:
            shutil.rmtree(place / name, ignore_errors=True)
        draft = tar.with_suffix(".draft")
        subprocess.run(["tar", "-C", str(place), "-cf", str(draft), "."], check=True)
        shutil.rmtree(place)
        draft.replace(tar)
    return tar
