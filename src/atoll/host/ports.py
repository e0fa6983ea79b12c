"""Ports that stay: chosen outside the range the kernel hands to outgoing connections, recorded, used again at the next `up`.

A port from the ephemeral range can be held by an outgoing connection after a kill, and a replica-set member whose port
changed has no primary.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from atoll.errors import SystemMistake

__all__ = ["Ports", "bind", "is_free", "port_holder", "usable_range"]

_LOWEST, _HIGHEST = 10_000, 65_535
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOOPBACK = "127.0.0.1"


def usable_range(ephemeral: str | None = None) -> range:
    """The larger stretch of unprivileged ports below or above the ephemeral range (`low high`, from the kernel if None)."""
    if ephemeral is None:
        ephemeral = _RANGE_FILE.read_text() if _RANGE_FILE.exists() else "49152 65535"
    low, high = map(int, ephemeral.split())
    below, above = range(_LOWEST, max(low, _LOWEST)), range(min(high + 1, _HIGHEST), _HIGHEST + 1)
    best = max(below, above, key=len)
    return best if len(best) >= 500 else range(2_000, max(low, 3_000))


class Ports:
    """Ports by name, kept in a file. `fixed` ones are the manifest's and never replaced."""

    def __init__(self, path: Path, allowed: range | None = None) -> None:
        self._path = path
        self._allowed = allowed or usable_range()
        self._by_name: dict[str, int] = _read(path)
        self._free = self._candidates()
        self._leased: set[str] = set()

    def lease(self, name: str) -> int:
        """The port of `name`: the recorded one if nobody else took it since the last `up`, else a new one, recorded."""
        return self.lease_all([name])[0]

    def lease_all(self, names: Iterable[str]) -> list[int]:
        """The same for many, which are recorded at once."""
        before = dict(self._by_name)
        ports = [self._lease(name) for name in names]
        if self._by_name != before:
            self.save()
        return ports

    def _lease(self, name: str) -> int:
        port = self._by_name.get(name)
        if port is None or (name not in self._leased and not is_free(port)):
            port = self._by_name[name] = self._another()
        self._leased.add(name)
        return port

    def recorded(self, name: str) -> int | None:
        return self._by_name.get(name)

    def save(self) -> None:
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(self._by_name, indent=2, sort_keys=True) + "\n")
        os.replace(draft, self._path)

    def _another(self) -> int:
        port = next(self._free, None)
        if port is None:
            self._free = self._candidates()  # some may be free by the next time
            raise SystemMistake(
                f"no free port from {self._allowed.start} to {self._allowed.stop - 1}", hint="`atoll doctor` looks closer"
            )
        return port

    def _candidates(self) -> Iterator[int]:
        """Each system begins at another place, so that two of them rarely try the same port."""
        start = zlib.crc32(str(self._path).encode()) % len(self._allowed)
        for offset in range(len(self._allowed)):
            port = self._allowed[(start + offset) % len(self._allowed)]
            if port not in self._by_name.values() and is_free(port):
                yield port


def _read(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): int(port) for name, port in found.items()}


def bind(port: int, *, backlog: int = 2048) -> socket.socket:
    """A listening socket on loopback, for a process to inherit. Raises OSError when the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


def is_free(port: int) -> bool:
    """Nobody listens on it, on loopback or on every address."""
    for host in (LOOPBACK, "0.0.0.0"):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError:
                return False
    return True


def port_holder(port: int) -> str:
    """`pid 123 (nginx)` for whoever listens on `port`, "" when that can't be seen (another user's, or no /proc)."""
    inodes = _listening_inodes(port)
    for pid in filter(str.isdigit, os.listdir("/proc")) if inodes else ():
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{number}") in inodes:
                    return f"pid {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    return ""


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for row in map(str.split, Path(table).read_text().splitlines()[1:]):
                if row[3] == "0A" and int(row[1].rsplit(":", 1)[1], 16) == port:
                    found.add(f"socket:[{row[9]}]")
    return found
