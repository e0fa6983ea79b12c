"""Wheels for images, fetched on the host from hash-locked requirements; the only module here that asks a package index."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import EngineOutage, SystemMistake

__all__ = ["Target", "digests", "fetch"]

_OLDEST_GLIBC = 5
_NAMED = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}


@dataclass(frozen=True, slots=True)
class Target:
    """What a base image runs: its Python, like `3.11`, its machine and its glibc."""

    python: str
    machine: str
    glibc: tuple[int, int]

    @property
    def platforms(self) -> Iterator[str]:
        """The wheels' platform tags that run there (PEP 600)."""
        _major, minor = self.glibc
        yield from (f"manylinux_2_{number}_{self.machine}" for number in range(minor, _OLDEST_GLIBC - 1, -1))
        yield from (f"{name}_{self.machine}" for name, least in _NAMED.items() if minor >= least)

    def check(self) -> None:
        """Markers in requirements are judged by the Python that fetches. Raises SystemMistake when that is another one."""
        own = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if self.python != own:
            raise SystemMistake(
                f"the base image has Python {self.python}, `atoll build` runs on {own}",
                hint="take a base image with the same Python: [containers] base",
            )


def fetch(lock: str, target: Target, store: Path) -> Path:
    """A folder with the wheels of `lock`, made at most once. Raises EngineOutage: pip failed, with what it said."""
    name = hashlib.sha256(f"{lock}{target}".encode()).hexdigest()[:16]
    folder = store / name
    if folder.is_dir():
        return folder
    store.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=store))
    try:
        requirements = fresh / "requirements.txt"
        requirements.write_text(lock)
        _download(requirements, target, fresh)
        requirements.unlink()
        os.chmod(fresh, 0o755)
        fresh.replace(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return folder


def _download(requirements: Path, target: Target, into: Path) -> None:
    arguments = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    arguments += ["--require-hashes", "--only-binary=:all:", "--implementation", "cp", "--python-version", target.python]
    arguments += [f"--platform={platform}" for platform in target.platforms]
    arguments += [f"--abi={abi}" for abi in (f"cp{target.python.replace('.', '')}", "abi3", "none")]
    done = subprocess.run([*arguments, "-r", str(requirements), "-d", str(into)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineOutage(
            f"wheels could not be fetched: {done.stderr.strip()[-1500:]}",
            hint="every requirement needs a wheel for the base image",
        )


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 by file name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.whl"))}
