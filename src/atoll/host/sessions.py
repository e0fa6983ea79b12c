"""Processes of the operating system by session: each supervised process leads one, so its descendants can be found and killed.

A pid alone may be somebody else's by now; pid and start time together name one process for ever.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
from collections.abc import Iterable

__all__ = ["kill_sessions", "members", "start_time"]

_LINUX = platform.system() == "Linux"

Session = tuple[int, str]  # the leader's pid and its start time


def start_time(pid: int) -> str:
    """When `pid` was started, in a form that only equality is defined for; "" when there is no such process."""
    if _LINUX:
        fields = _stat(pid)
        return fields[19] if fields and fields[0] != "Z" else ""
    return next((started for other, _group, started in _ps() if other == pid), "")


def members(sessions: Iterable[Session]) -> list[int]:
    """The living processes in any of these sessions. A session whose leader's pid was given to another process is over."""
    wanted = {pid for pid, started in sessions if start_time(pid) in ("", started)}
    if _LINUX:
        return [pid for pid in _pids() if (f := _stat(pid)) and int(f[3]) in wanted and f[0] != "Z"]
    return [pid for pid, group, _started in _ps() if group in wanted]


def kill_sessions(sessions: Iterable[Session]) -> list[int]:
    """SIGKILL for every member, repeated until none is left (a member may fork meanwhile). Gives the pids killed."""
    sessions = list(sessions)
    killed: list[int] = []
    for _round in range(100):
        found = members(sessions)
        if not found:
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed += found
    return sorted(set(killed))


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str]:
    """Fields 3 and on of /proc/PID/stat: state, ppid, pgrp, session, …, starttime at [19]. Empty when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # hundreds are read in a row
            text = file.read()
    except OSError:
        return []
    return text[text.rindex(b")") + 2 :].decode("ascii", "replace").split()


def _ps() -> list[tuple[int, int, str]]:
    """(pid, process group, start time) of every process, where there is no /proc."""
    out = subprocess.run(["ps", "-axo", "pid=,pgid=,lstart="], capture_output=True, text=True, check=False).stdout
    rows = [line.split(None, 2) for line in out.splitlines()]
    return [(int(row[0]), int(row[1]), row[2]) for row in rows if len(row) == 3]
