"""Further interpreters for tests: environments that see this one's packages and, before them, some of their own."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import atoll

__all__ = ["environment", "reachable_python"]

_SOURCES = Path(atoll.__file__).resolve().parent.parent


def environment(folder: Path, modules: Mapping[str, str], python: str = sys.executable) -> Path:
    """A virtual environment in `folder` with `modules` (name → source) in it; its interpreter. Needs no network."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True, capture_output=True)
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    for name, source in modules.items():
        (packages / f"{name}.py").write_text(source)
    (packages / "shared.pth").write_text("\n".join([str(_SOURCES), *site.getsitepackages()]) + "\n")
    return folder / "bin" / "python"


def reachable_python(user: int) -> str:
    """An interpreter of this version that `user` may run: this one, or the machine's own."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/python{ours}", f"/usr/local/bin/python{ours}"):
        if os.path.exists(candidate) and _runs(candidate, user):
            return candidate
    raise AssertionError(f"no Python {ours} that user {user} may run: install one in /usr/bin, or test as that user")


def _runs(python: str, user: int) -> bool:
    probe = [python, "-c", "import ctypes, sqlite3, ssl"]
    try:
        return subprocess.run(probe, user=user, group=user, extra_groups=[], cwd="/", capture_output=True).returncode == 0
    except OSError:
        return False
