"""A host outside the system: a network namespace of the tests' own, reached over this machine as any other host would be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.waiting import until_sync

__all__ = ["outside"]

# RFC 5737: addresses that belong to nobody.
_NETWORK = "198.51.100"
_PORT = 8000
_SERVE = f"import socket; s = socket.create_server(('0.0.0.0', {_PORT}))\nwhile True: s.accept()[0].close()"


@contextmanager
def outside() -> Iterator[tuple[str, int]]:
    """Where it listens."""
    _ip("netns", "add", "atoll-outside")
    try:
        _ip("link", "add", "atoll-out", "type", "veth", "peer", "name", "eth0", "netns", "atoll-outside")
        _ip("address", "add", f"{_NETWORK}.1/30", "dev", "atoll-out")
        _ip("link", "set", "atoll-out", "up")
        _ip("-n", "atoll-outside", "address", "add", f"{_NETWORK}.2/30", "dev", "eth0")
        _ip("-n", "atoll-outside", "link", "set", "eth0", "up")
        _ip("-n", "atoll-outside", "route", "add", "default", "via", f"{_NETWORK}.1")
        server = subprocess.Popen(["ip", "netns", "exec", "atoll-outside", sys.executable, "-c", _SERVE])
        try:
            until_sync(_listens, 20, "the host outside listens")
            yield f"{_NETWORK}.2", _PORT
        finally:
            server.kill()
            server.wait(10)
    finally:
        _ip("netns", "delete", "atoll-outside")


def _listens() -> bool:
    asked = subprocess.run(["ip", "netns", "exec", "atoll-outside", "cat", "/proc/net/tcp"], capture_output=True, text=True)
    return f":{_PORT:04X} " in asked.stdout


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
