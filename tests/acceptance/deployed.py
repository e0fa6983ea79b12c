"""The shop where it was deployed: under `atoll up`, in Compose on a Docker engine, or as pods. The same suite asks all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from tests.acceptance.engine import BASE, Engine, cache, engine
from tests.acceptance.podman import Podman, podman
from tests.support.manifests import built, kustomized
from tests.support.ports import free_port
from tests.support.shop import SHOP
from tests.support.system import RunningSystem, running
from tests.support.waiting import until_sync

__all__ = ["Compose", "Deployed", "Local", "Pods", "compose", "local", "pods"]

_IGNORED = shutil.ignore_patterns(".atoll", "__pycache__", ".pytest_cache", "deploy")


class Deployed(Protocol):
    """What the suite needs to know of a place."""

    @property
    def url(self) -> str: ...

    def password(self, user: str) -> str: ...

    def kill(self, service: str) -> None:
        """SIGKILL for all of its replicas; it stays down until `revive`."""

    def revive(self, service: str) -> None: ...

    @property
    def irreplaceable(self) -> str:
        """Why nothing can be replaced there without an interruption; "" where it can."""

    def replace(self, service: str) -> str:
        """Other processes instead of those that run, and what was said about it."""

    def processes(self, service: str) -> set[str]:
        """Those that run, each by what no other will ever be called."""

    def python(self, service: str, program: str) -> str:
        """What that program prints where `service` runs, with all that it is told."""

    def said(self) -> str:
        """The ends of all logs, for a person who has to find out."""


@dataclass
class Local:
    """`atoll up`. A killed service is stopped there by hand, because the host would start it again at once."""

    system: RunningSystem

    @property
    def url(self) -> str:
        return self.system.url

    def password(self, user: str) -> str:
        return f"demo-only-{user}"

    def kill(self, service: str) -> None:
        self.system.must("scale", f"{service}=0")

    def revive(self, service: str) -> None:
        self.system.must("scale", f"{service}=1")

    @property
    def irreplaceable(self) -> str:
        return ""

    def replace(self, service: str) -> str:
        return self.system.must("restart", service)

    def processes(self, service: str) -> set[str]:
        return {str(self.system.processes()[name]["pid"]) for name in self.system.replicas(service)}

    def python(self, service: str, program: str) -> str:
        told = json.loads(self.system.must("env", service, "--json"))
        environment = told.get("environment", told)
        done = subprocess.run(
            [self.system.python, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def said(self) -> str:
        return self.system.run("logs", "--lines", "25").stdout


@dataclass
class Compose:
    """A Compose project. `folder` is where it was rendered."""

    system: RunningSystem
    engine: Engine
    folder: Path
    port: int
    project: str = "shop"

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def password(self, user: str) -> str:
        return (self.folder / "secrets" / "auth" / f"auth_user_{user}_password").read_text()

    def compose(self, *arguments: str, timeout_s: float = 600.0) -> str:
        done = subprocess.run(
            ["docker-compose", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.engine.variables},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"compose {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}\n{self.said()}"
        return done.stdout

    def said(self) -> str:
        """The ends of all logs, for a person who has to find out."""
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                ["docker-compose", "logs", "--tail=25"],
                cwd=self.folder,
                env={**os.environ, **self.engine.variables},
                capture_output=True,
                text=True,
                timeout=60,
            )
            return done.stdout[-20_000:]
        return ""

    def kill(self, service: str) -> None:
        self.compose("kill", service)

    def revive(self, service: str) -> None:
        self.compose("start", service)

    @property
    def irreplaceable(self) -> str:
        return ""

    def replace(self, service: str) -> str:
        return self.system.must("rollout", service, timeout_s=400.0)

    def processes(self, service: str) -> set[str]:
        return set(self.containers(service))

    def python(self, service: str, program: str) -> str:
        return self.inside(service, "python3", "-c", program)

    def inside(self, service: str, *command: str) -> str:
        """What that prints in its first container."""
        return self.engine.docker("exec", self.containers(service)[0], *command)

    def containers(self, service: str = "") -> list[str]:
        """Those that run, of a service or of all."""
        wanted = {"project": self.project, **({"service": service} if service else {})}
        filters = [word for name, value in wanted.items() for word in ("--filter", f"label=com.docker.compose.{name}={value}")]
        return self.engine.docker("ps", "--quiet", *filters).split()

    def container(self, service: str) -> dict[str, Any]:
        """What the engine says of its first container."""
        return dict(json.loads(self.engine.docker("container", "inspect", self.containers(service)[0]))[0])


@dataclass
class Pods:
    """The overlay `podman` of the Kubernetes manifests. `folder` is where they were rendered."""

    system: RunningSystem
    podman: Podman
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def password(self, user: str) -> str:
        return (self.folder / "secrets" / "auth" / f"auth_user_{user}_password").read_text()

    def kill(self, service: str) -> None:
        self.podman("pod", "kill", f"{service}-pod-0")
        self.podman("wait", f"{service}-pod-0-{service}")  # what podman takes for running it does not start

    def revive(self, service: str) -> None:
        self.podman("pod", "start", f"{service}-pod-0")

    @property
    def irreplaceable(self) -> str:
        return "podman plays a Deployment, and has no rollout and no second replica; make acceptance-compose"

    def replace(self, service: str) -> str:
        raise NotImplementedError(self.irreplaceable)

    def processes(self, service: str) -> set[str]:
        return {self.container(service)["Id"]}

    def python(self, service: str, program: str) -> str:
        return self.podman("exec", f"{service}-pod-0-{service}", "python3", "-c", program)

    def containers(self) -> list[dict[str, Any]]:
        """What podman says of each, but for those that hold a pod's network."""
        names = self.podman("ps", "--all", "--quiet", "--filter", "label=io.atoll/kind").split()
        return list(json.loads(self.podman("container", "inspect", *names)))

    def container(self, service: str) -> dict[str, Any]:
        return dict(json.loads(self.podman("container", "inspect", f"{service}-pod-0-{service}"))[0])

    def play(self) -> None:
        """As a user does it."""
        self.podman("kube", "play", "-", text=kustomized(self.folder, "podman"))

    def down(self) -> None:
        """Volumes stay."""
        self.podman("kube", "down", "-", text=kustomized(self.folder, "podman"))

    def serves(self) -> bool:
        return _serves(self.url)

    def said(self) -> str:
        """The ends of all logs, for a person who has to find out."""
        names = [one["Name"] for one in self.containers()]
        return "\n".join(f"== {name}\n{self.podman('logs', '--tail', '25', name)}" for name in names)


@contextmanager
def local(folder: Path) -> Iterator[Local]:
    with running(SHOP, folder / "shop") as system:
        yield Local(system)


@contextmanager
def compose(folder: Path) -> Iterator[Compose]:
    """Built, rendered, started and settled; gone at the end, with its volumes."""
    short = Path(tempfile.mkdtemp(prefix="atoll-"))
    try:
        with engine(short) as found:
            port = free_port()
            system = _rendered(_copy(folder / "shop", port), found, "compose")
            deployed = Compose(system, found, system.folder / "deploy" / "compose", port)
            try:
                deployed.compose("up", "-d", timeout_s=900.0)
                until_sync(lambda: _serves(deployed.url), 120, "the gateway serves")
                yield deployed
            finally:
                deployed.compose("down", "--volumes", "--timeout", "20")
    finally:
        shutil.rmtree(short, ignore_errors=True)


@contextmanager
def pods(folder: Path) -> Iterator[Pods]:
    """As `compose`; a Docker engine builds the images, and has ended when podman begins."""
    short = Path(tempfile.mkdtemp(prefix="atoll-"))
    images, port = short / "images.tar", free_port()
    try:
        with engine(short) as found:
            system = _rendered(_copy(folder / "shop", port), found, "kubernetes")
            manifests = system.folder / "deploy" / "kubernetes"
            found.docker("save", "--output", str(images), *_images(manifests))
        with podman(short / "podman") as player:
            player("load", "--quiet", "--input", str(images))
            images.unlink()
            deployed = Pods(system, player, manifests, port)
            deployed.play()
            try:
                until_sync(deployed.serves, 120, "the gateway serves")
            except AssertionError as error:
                raise AssertionError(f"{error}\n{deployed.said()}") from None
            yield deployed
    finally:
        shutil.rmtree(short, ignore_errors=True)


def _rendered(shop: Path, engine: Engine, host: str) -> RunningSystem:
    """Its images are built, and its files are there, for that host."""
    system = RunningSystem(shop, environment=engine.variables)
    system.must("build", "--environment", "containers", timeout_s=3000.0)
    given = shop / "deploy" / host / "secrets" / "given"
    given.mkdir(parents=True)
    (given / "session_secret").write_text(secrets.token_urlsafe(32))
    system.must("render", host, "--environment", "containers")
    return system


def _images(manifests: Path) -> list[str]:
    specs = [one["spec"] for one in built(manifests, "podman") if one["kind"] in ("Pod", "Deployment")]
    containers = [each for spec in specs for each in spec.get("template", {}).get("spec", spec)["containers"]]
    return sorted({container["image"] for container in containers})


def _copy(shop: Path, port: int) -> Path:
    """On the tests' own base image and a port that is free, with a bus of three, and wheels kept between runs."""
    shutil.copytree(SHOP, shop, ignore=_IGNORED)
    with (shop / "atoll.toml").open("a") as manifest:
        manifest.write(f'\n[environments.containers.containers]\nbase = "{BASE}"\n')
        manifest.write("[environments.containers.bus]\nservers = 3\n")
        manifest.write("[environments.containers.services.inventory.settings]\ninitial_stock = 100_000\n")
        manifest.write(f'[environments.containers.gateway]\nport = {port}\npublic_url = "http://localhost:{port}"\n')
    kept = cache() / "wheels"
    kept.mkdir(parents=True, exist_ok=True)
    (shop / ".atoll" / "images").mkdir(parents=True)
    (shop / ".atoll" / "images" / "wheels").symlink_to(kept)
    return shop


def _serves(url: str) -> bool:
    """Catalogue and sign-in answer, through the gateway."""
    with suppress(httpx.HTTPError):
        paths = ("/catalog/products", "/", "/inventory/beeswax-candle", "/auth/jwks")
        return all(httpx.get(f"{url}{path}", timeout=5).status_code == 200 for path in paths)
    return False
