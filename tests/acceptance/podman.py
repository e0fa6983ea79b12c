"""A podman of the tests' own, with everything that it keeps in one folder: installed when it is missing. Linux and root only.

podman gives each process limits of its own, and sets them anew when it asks for none. Where a sandbox does not let root do
that, no container would start; so what podman asks of its runtime passes a program that leaves them out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.engine import CannotRun, firewall_kept, install
from tests.support.waiting import until_sync

_PACKAGES = ("podman", "netavark", "aardvark-dns", "runc", "catatonit", "iptables")
_NEEDED = ("podman", "runc", "catatonit", "iptables", "/usr/lib/podman/netavark", "/usr/lib/podman/aardvark-dns")
_RUNTIME = f"""\
#!{sys.executable} -IS
import json, os, sys

def without_limits(path, *keys):
    with open(path) as file:
        told = found = json.load(file)
    for key in keys:
        found = found[key]
    found.pop("rlimits", None)
    with open(path, "w") as file:
        json.dump(told, file)

words = sys.argv[1:]
if "create" in words:
    without_limits(words[words.index("--bundle") + 1] + "/config.json", "process")
if "exec" in words:
    without_limits(words[words.index("--process") + 1])
os.execvp("runc", ["runc", *words])
"""
_CONTAINERS = """\
[containers]
base_hosts_file = "none"
log_driver = "k8s-file"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
runtime = "limitless"
static_dir = "{folder}/store/libpod"
tmp_dir = "{folder}/tmp"
volume_path = "{folder}/store/volumes"

[engine.runtimes]
limitless = ["{folder}/runtime"]

[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""
_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/store"
runroot = "{folder}/run"
"""


@dataclass(frozen=True)
class Podman:
    """`folder` has all that it keeps."""

    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        files = {"CONTAINERS_CONF": "containers.conf", "CONTAINERS_STORAGE_CONF": "storage.conf"}
        return {name: str(self.folder / file) for name, file in files.items()}

    def __call__(self, *arguments: str, text: str = "", timeout_s: float = 300.0) -> str:
        """What it printed, told `text`. Fails the test when it fails."""
        done = subprocess.run(
            ["podman", *arguments],
            env={**os.environ, **self.variables},
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"podman {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout


@contextmanager
def podman(folder: Path) -> Iterator[Podman]:
    """Raises CannotRun. `folder` has to be short: sockets lie in it. Of containers, networks and mounts nothing is left."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise CannotRun("pods need Linux and root")
    install(_NEEDED, _PACKAGES)
    found = _configured(folder)
    with firewall_kept(), _elsewhere_kept():
        try:
            _try(found)
            yield found
        finally:
            _end(found)


def _end(found: Podman) -> None:
    """Pods, then who cleans up after them, then mounts: each needs the one before it to be gone. Fails with what is left."""
    with suppress(AssertionError):  # who is not killed at once is removed all the same, only later
        found("pod", "kill", "--all")
    faults: list[str] = []
    try:
        until_sync(lambda: _emptied(found, faults), 120, "all pods are removed")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{faults[-1]}") from None
    until_sync(lambda: not _processes(found.folder), 60, "who has cleaned up after containers has ended")
    until_sync(lambda: _unmounted(found.folder), 60, "nothing is mounted")


def _emptied(found: Podman, faults: list[str]) -> bool:
    """Whether no container is left. A process that dies, or a mount that somebody still looks at, is a matter of time."""
    try:
        found("pod", "rm", "--all", "--force", "--time", "0")
        left = found("ps", "--all", "--external", "--quiet").split()
    except AssertionError as error:
        faults.append(str(error))
        return False
    faults.append(f"these are left: {left}")
    return not left


def _processes(place: Path) -> list[str]:
    """Command lines that name it: of containers' monitors, and of podmans that these start when a container has ended."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = file.read_bytes().decode(errors="replace").split("\0")
            if any(word.startswith(f"{place}/") for word in words):
                found.append(" ".join(words))
    return found


def _unmounted(folder: Path) -> bool:
    """Whether nothing is, below it; the innermost are tried first."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    left = [place for place in reversed(mounts) if place.startswith(f"{folder}/")]
    for place in left:
        subprocess.run(["umount", place], check=False, capture_output=True)
    return not left


@contextmanager
def _elsewhere_kept() -> Iterator[None]:
    """Which addresses are in use, and where layers came from, are the two things that podman keeps elsewhere."""
    made = [place for place in (Path("/run/containers"), Path("/var/lib/containers")) if not place.exists()]
    try:
        yield
    finally:
        for place in made:
            until_sync(lambda place=place: not _processes(place), 60, f"nobody uses {place}")  # type: ignore[misc]
            shutil.rmtree(place, ignore_errors=True)


def _configured(folder: Path) -> Podman:
    folder.mkdir()
    for name, text in (("containers.conf", _CONTAINERS), ("storage.conf", _STORAGE)):
        (folder / name).write_text(text.format(folder=folder))
    (folder / "runtime").write_text(_RUNTIME)
    (folder / "runtime").chmod(0o755)
    (folder / "networks").mkdir()
    return Podman(folder)


def _try(found: Podman) -> None:
    """Whether a pod starts at all. Raises CannotRun."""
    try:
        found("pod", "create", "--name", "first")
        found("pod", "start", "first")
        found("pod", "rm", "--force", "first")
    except AssertionError as error:
        raise CannotRun(f"podman starts no pod:\n{str(error)[-3000:]}") from None
