"""The host's record, `.atoll/state.json`: what runs where, for commands to show and for the next `up` to clean up after."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from atoll.host.sessions import Session, kill_sessions

__all__ = ["HostState", "ProcessState", "clean_up", "read", "write"]


class ProcessState(msgspec.Struct, frozen=True):
    """One supervised process. `uptime_s` counts from its last start, `restarts` since the host runs."""

    name: str
    kind: str
    service: str
    state: str
    pid: int
    started: str
    port: int | None = None
    restarts: int = 0
    why: str = ""
    log: str = ""


class HostState(msgspec.Struct, frozen=True):
    """`down` says for every service that can't run why. `ca` is the authority that clients of `url` must trust, "" none."""

    system: str
    url: str
    pid: int
    started: str
    reaper: tuple[int, str]
    processes: tuple[ProcessState, ...] = ()
    engines: dict[str, str] = {}
    down: dict[str, str] = {}
    ready: bool = False
    ca: str = ""

    @property
    def sessions(self) -> list[Session]:
        return [(process.pid, process.started) for process in self.processes if process.pid and process.started]


def write(path: Path, state: HostState) -> None:
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=1))
    os.replace(draft, path)


def read(path: Path) -> HostState | None:
    """The last record, None when there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=HostState)
    except (OSError, msgspec.MsgspecError):
        return None


def clean_up(path: Path) -> list[int]:
    """Kills whatever a former host of this system left running. Call with the lock held. Gives the pids."""
    former = read(path)
    if former is None:
        return []
    killed = kill_sessions(former.sessions)
    path.unlink(missing_ok=True)
    return killed


def shown(state: HostState) -> dict[str, Any]:
    return dict(json.loads(msgspec.json.encode(state)))
