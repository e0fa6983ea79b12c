"""A second system, for what the shop has not: TLS, a `command` as fallback, a mirror, WSGI, built pages, a way out.

Under `atoll up`, or in Compose beside the shop on the same engine. Its certificate is a test's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from atoll.certificates.pair import Pair
from tests.acceptance.deployed import Compose
from tests.acceptance.engine import Engine, cache
from tests.support.ports import free_port
from tests.support.system import ROOT, SYSTEMS, RunningSystem, system
from tests.support.tls import Files
from tests.support.waiting import until_sync

__all__ = ["Harbour", "InCompose", "OnMachine", "in_compose", "on_machine"]

SOURCE = SYSTEMS / "harbour"
_SERVICES = ("wall", "reviews", "wooden", "shore")
_PROGRAM = ("click", "h11", "uvicorn")
_SHOP_LOCK = ROOT / "examples" / "shop" / "services" / "notifications" / "requirements.txt"


class Harbour(Protocol):
    """What the suite needs to know of a place."""

    files: Files

    @property
    def port(self) -> int: ...

    @property
    def redirect_port(self) -> int: ...

    def renewed(self) -> Pair:
        """A new certificate, where an operator would put it."""

    def replace(self, service: str) -> str:
        """Other processes instead of those that run, and what was said about it."""

    def mirrored(self) -> dict[str, Any]:
        """What `atoll mirror --json` says."""

    def metrics(self) -> str:
        """The gateway's, as Prometheus reads them."""


@dataclass
class OnMachine:
    system: RunningSystem
    files: Files

    @property
    def port(self) -> int:
        return int(self.system.url.rpartition(":")[2])

    @property
    def redirect_port(self) -> int:
        return int(json.loads((self.system.folder / ".atoll" / "ports.json").read_text())["gateway.redirect"])

    def renewed(self) -> Pair:
        return self.files.fill("localhost")

    def replace(self, service: str) -> str:
        return self.system.must("restart", service)

    def mirrored(self) -> dict[str, Any]:
        return dict(json.loads(self.system.run("mirror", "--json").stdout))

    def metrics(self) -> str:
        (entry, *_) = json.loads((self.system.folder / ".atoll" / "prometheus-targets.json").read_text())
        labels = entry["labels"]
        url = f"http://{entry['targets'][0]}{labels['__metrics_path__']}"
        return httpx.get(url, params={"filter": labels["__param_filter"]}, timeout=20).text


@dataclass
class InCompose(Compose):
    files: Files = field(kw_only=True)
    redirect_port: int = field(kw_only=True)

    def renewed(self) -> Pair:
        pair = self.files.fill("localhost")
        self.system.must("render", "compose", "--environment", "containers")
        return pair

    def replace(self, service: str) -> str:
        return self.system.must("rollout", service, timeout_s=400.0)

    def mirrored(self) -> dict[str, Any]:
        done = self.engine.run("exec", self.containers("gateway")[0], "python3", "-m", "atoll", "mirror", "--json")
        return dict(json.loads(done.stdout))

    def metrics_place(self) -> tuple[str, int]:
        """Where the gateway answers, which only its network `edge` and this machine reach."""
        networks = self.container("gateway")["NetworkSettings"]["Networks"]
        return networks["harbour_edge"]["IPAddress"], 9902

    def metrics(self) -> str:
        host, port = self.metrics_place()
        return httpx.get(f"http://{host}:{port}/metrics", timeout=20).text


def shown(port: int) -> str:
    """The digest of the certificate that whoever connects is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()


@contextmanager
def on_machine(folder: Path) -> Iterator[OnMachine]:
    with system(SOURCE, folder / "harbour") as copy:
        files = _prepared(copy)
        programs = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
        copy.environment = {"SSL_CERT_FILE": str(files.ca), "PATH": programs}
        copy.up()
        yield OnMachine(copy, files)


@contextmanager
def in_compose(folder: Path, engine: Engine) -> Iterator[InCompose]:
    copy = folder / "harbour"
    shutil.copytree(SOURCE, copy)
    made = RunningSystem(copy, environment=engine.variables)
    port, redirect_port = _at_free_ports(copy / "atoll.toml")
    files = _prepared(made)
    for name in _SERVICES:
        (copy / "services" / name / "requirements.txt").write_text(_lock(name))
    (copy / ".atoll" / "images").mkdir(parents=True, exist_ok=True)
    (copy / ".atoll" / "images" / "wheels").symlink_to(cache() / "wheels")
    made.must("build", "--environment", "containers", timeout_s=1800.0)
    made.must("render", "compose", "--environment", "containers")
    rendered = copy / "deploy" / "compose"
    deployed = InCompose(made, engine, rendered, port, files=files, redirect_port=redirect_port, project="harbour")
    try:
        deployed.compose("up", "-d", timeout_s=600.0)
        until_sync(lambda: _serves(port, files), 120, "the harbour serves")
        yield deployed
    finally:
        deployed.compose("down", "--volumes", "--timeout", "20")


def _prepared(made: RunningSystem) -> Files:
    """With a certificate."""
    files = Files(made.folder / "tls")
    files.fill("localhost")
    return files


def _at_free_ports(manifest: Path) -> tuple[int, int]:
    port, redirect_port = free_port(), free_port()
    manifest.write_text(manifest.read_text().replace("8195", str(port)).replace("8196", str(redirect_port)))
    return port, redirect_port


def _lock(service: str) -> str:
    """The wall's has nothing of atoll's, the others' nothing of the wall's."""
    ours = (ROOT / "requirements" / "dev.txt").read_text()
    if service == "wall":
        return _entries(ours, _PROGRAM)
    return _SHOP_LOCK.read_text() + (_entries(ours, ("a2wsgi", "typing-extensions")) if service == "wooden" else "")


def _entries(lock: str, names: tuple[str, ...]) -> str:
    """Those of a lock file, digests included."""
    return "".join(one for one in re.split(r"(?m)^(?=\S)", lock) if one.partition("==")[0] in names)


def _serves(port: int, files: Files) -> bool:
    with suppress(httpx.HTTPError), httpx.Client(base_url=f"https://localhost:{port}", verify=files.trusting()) as http:
        return all(http.get(path).status_code == 200 for path in ("/", "/wooden", "/shore", "/auth/jwks"))
    return False
