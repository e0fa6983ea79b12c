"""The versions of engines, asked once however many services want to know at the same time."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from atoll.host.versions import Versions


def test_many_who_ask_at_once_get_one_answer_that_is_kept(tmp_path: Path) -> None:
    asked: list[Path] = []
    path, version = tmp_path / "versions.json", f"Python {platform.python_version()}"
    for _ in range(5):
        path.unlink(missing_ok=True)
        versions, together = Versions(path), Barrier(4)

        def ask(binary: Path) -> str:
            asked.append(binary)
            return subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()

        def want(_number: int, versions: Versions = versions, together: Barrier = together) -> str:
            together.wait()
            return versions.of(Path(sys.executable), ask)

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(want, range(4))) == [version] * 4
    assert len(asked) == 5
    assert list(json.loads(path.read_text()).values()) == [version]
