"""A registry of images on this machine, Debian's docker-registry: engines take one at 127.0.0.1 without TLS."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.acceptance.engine import install
from tests.support.ports import free_port
from tests.support.waiting import until_sync

CONFIGURATION = """
version: 0.1
storage:
  filesystem:
    rootdirectory: {folder}/images
http:
  addr: 127.0.0.1:{port}
"""


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Where it is, `127.0.0.1:5000`; empty, and gone at the end. Raises CannotRun."""
    install(["docker-registry"], ["docker-registry"])
    port = free_port()
    configuration = folder / "registry.yaml"
    configuration.write_text(CONFIGURATION.format(folder=folder, port=port))
    with (folder / "registry.log").open("wb") as log:
        command = ["docker-registry", "serve", str(configuration)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        until_sync(lambda: process.poll() is not None or _answers(port), 30, "the registry answers")
        assert process.poll() is None, (folder / "registry.log").read_text()
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _answers(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/v2/", timeout=2).status_code == 200
    return False
