"""What this machine has and misses for running a system. Looks only; changes nothing."""

from __future__ import annotations

import os
import platform
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from atoll.engines import envoy, mongodb, nats, postgres
from atoll.errors import EngineOutage, SystemMistake
from atoll.host import lock, ports, tls
from atoll.host.layout import Layout
from atoll.system.manifest import ServiceSpec, System

__all__ = ["Finding", "examine"]

_FILES = 4_096
_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. "missing": something can't run; "warning": something may go wrong."""

    what: str
    state: Literal["ok", "warning", "missing"]
    found: str
    advice: str = ""

    def shown(self) -> dict[str, Any]:
        return asdict(self)


def examine(system: System | None) -> list[Finding]:
    """Of the machine, and of `system` where there is one."""
    return [*_machine(), *(_system(system) if system else ())]


def _machine() -> Iterator[Finding]:
    yield _python("python", sys.version_info[:3], sys.executable)
    yield Finding("platform", "ok", f"{platform.system()} {platform.machine()}, user {os.geteuid()}")
    yield _engine("nats-server", nats.find, nats.version, "nothing runs without it")
    yield _engine("envoy", envoy.find, envoy.version, "nothing runs without it")
    yield _engine("postgres", postgres.find, postgres.version, "services with PostgreSQL are down without it")
    yield _engine("mongod", mongodb.find, mongodb.version, "services with MongoDB are down without it")
    yield Finding("sqlite", "ok", sqlite3.sqlite_version)
    yield _inotify()
    yield _files()
    yield _ports()


def _engine(what: str, find: Callable[[], Path], version: Callable[[Path], str], hurts: str) -> Finding:
    try:
        binary = find()
        return Finding(what, "ok", f"{version(binary)}, {binary}")
    except EngineOutage as outage:
        return Finding(what, "missing", outage.detail, f"{outage.hint}; {hurts}" if outage.hint else hurts)


def _python(what: str, version: tuple[int, ...], executable: str) -> Finding:
    text = f"{'.'.join(map(str, version))}, {executable}"
    if version[:2] < _OLDEST_PYTHON:
        return Finding(what, "missing", text, "atoll needs Python 3.11 or newer")
    return Finding(what, "ok", text)


def _inotify() -> Finding:
    try:
        envoy.check_inotify()
    except EngineOutage as outage:
        return Finding("inotify", "missing", outage.detail, outage.hint)
    return Finding("inotify", "ok", "instances are left")


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} open files per process"
    if soft < _FILES:
        return Finding("open files", "warning", text, f"ulimit -n {min(hard, 65_536) if hard > 0 else 65_536}")
    return Finding("open files", "ok", text)


def _ports() -> Finding:
    usable = ports.usable_range()
    return Finding("ports", "ok", f"services and engines get theirs from {usable.start} to {usable.stop - 1}")


def _system(system: System) -> Iterator[Finding]:
    host = lock.holder(Layout(system.folder).lock)
    yield Finding("system", "ok", f"{system.name}, " + (f"running (host pid {host})" if host else "not running"))
    if host is None:
        yield _gateway_port(system)
    if system.gateway.tls is not None and not system.gateway.tls.local:
        yield _certificate(system)
    for spec in system.services:
        if spec.python is not None:
            yield _interpreter(spec)


def _gateway_port(system: System) -> Finding:
    port = system.gateway.port
    if ports.is_free(port):
        return Finding("gateway port", "ok", f"{port} is free")
    who = ports.port_holder(port) or "another process"
    return Finding("gateway port", "missing", f"{port} is taken by {who}", "stop that, or `atoll up --isolated`")


def _certificate(system: System) -> Finding:
    now = datetime.now(UTC)
    try:
        pair = tls.check(system.gateway, now)
    except SystemMistake as mistake:
        return Finding("certificate", "missing", f"{mistake.where}: {mistake.detail}", mistake.hint)
    assert pair is not None, "who calls this has looked"
    text = f"for {', '.join(pair.names)}, until {pair.ends:%Y-%m-%d %H:%M} UTC"
    if (pair.ends - now) * 10 < pair.ends - pair.begins:
        return Finding("certificate", "warning", text, "renew it: the running gateway takes over new files by itself")
    return Finding("certificate", "ok", text)


def _interpreter(spec: ServiceSpec) -> Finding:
    code = "import sys, importlib.metadata as m; print(*sys.version_info[:3], m.version('atoll'))"
    what = f"python of {spec.name}"
    try:
        done = subprocess.run([str(spec.python), "-c", code], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(what, "missing", str(error), f"make it: python -m venv {spec.python and spec.python.parent.parent}")
    if done.returncode:
        return Finding(what, "missing", done.stderr.strip().splitlines()[-1], f"{spec.python} -m pip install atoll")
    major, minor, patch, _atoll = done.stdout.split()
    return _python(what, (int(major), int(minor), int(patch)), str(spec.python))
