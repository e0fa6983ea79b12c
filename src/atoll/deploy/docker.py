"""A Docker engine, asked through its command line; the only module here that runs `docker`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.deploy.wheels import Target
from atoll.errors import EngineOutage, SystemMistake

__all__ = ["Docker"]

_ASK = "import json, platform, sys; print(json.dumps([sys.version_info[:2], platform.machine(), platform.libc_ver()[1]]))"
_PACKAGES = "dpkg-query -W -f '${Package} ${Version}\\n' 2>/dev/null || true"


@dataclass(frozen=True, slots=True)
class Docker:
    """`binary` is the client. Which engine it speaks to is its own affair: DOCKER_HOST, contexts."""

    binary: str

    @classmethod
    def find(cls) -> Docker:
        """Raises EngineOutage."""
        found = shutil.which("docker")
        if found is None:
            raise EngineOutage("there is no `docker` on PATH", hint="install Docker, or another engine with its command line")
        return cls(found)

    def run(self, *arguments: str, timeout_s: float = 600.0) -> str:
        """What it printed. Raises EngineOutage with its complaint."""
        words = " ".join(arguments[:2])
        try:
            done = subprocess.run([self.binary, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise EngineOutage(f"docker {words} was not done within {timeout_s:g} s") from error
        if done.returncode:
            raise EngineOutage(f"docker {words} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
        return done.stdout

    def layers(self, image: str) -> list[str] | None:
        """The image's layers, None when there is no such image here."""
        done = subprocess.run([self.binary, "image", "inspect", image], capture_output=True, text=True, check=False)
        return list(json.loads(done.stdout)[0]["RootFS"]["Layers"]) if done.returncode == 0 else None

    def makers(self, image: str) -> set[str]:
        """Who has made its layers, as its history says."""
        return set(self.run("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).splitlines())

    def base(self, image: str) -> list[str]:
        """The layers of a base image, fetched when it is not here. Raises SystemMistake."""
        if (found := self.layers(image)) is None:
            try:
                self.run("pull", image)
            except EngineOutage as outage:
                hint = "[containers] base names an image that the engine has or can pull"
                raise SystemMistake(f"there is no base image {image}: {outage.detail}", hint=hint) from outage
            found = self.layers(image) or []
        return found

    def target(self, base: str) -> Target:
        """What the base image runs."""
        try:
            told = json.loads(self._inside(base, "python3", "-I", "-c", _ASK))
        except (EngineOutage, ValueError) as error:
            raise SystemMistake(f"the base image {base} has no Python that runs: {error}", hint="[containers] base") from error
        (major, minor), machine, libc = told
        if not libc:
            raise SystemMistake(f"the base image {base} has no glibc", hint="wheels of engines need one: not Alpine")
        return Target(f"{major}.{minor}", machine, tuple(map(int, libc.split(".")[:2])))  # type: ignore[arg-type]

    def packages(self, base: str) -> list[str]:
        """Debian's packages in the base image, `name version`; none where it is not Debian."""
        return self._inside(base, "sh", "-c", _PACKAGES).splitlines()

    def build(self, folder: Path, tag: str) -> None:
        """Without network: what is missing in the folder is missing."""
        self.run("build", "--network", "none", "--tag", tag, str(folder))

    def save(self, tags: Sequence[str], file: Path) -> None:
        self.run("save", "--output", str(file), *tags)

    def load(self, file: Path) -> None:
        self.run("load", "--quiet", "--input", str(file))

    def forget(self, images: Iterable[str]) -> None:
        """Removes images that have no name any more, as far as nothing uses them."""
        for image in images:
            subprocess.run([self.binary, "image", "rm", image], capture_output=True, check=False)

    def logs(self, container: str) -> str:
        """All that it printed, both outputs."""
        done = subprocess.run([self.binary, "logs", container], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def push(self, tag: str) -> str:
        """The digest by which its registry knows it now."""
        self.run("push", "--quiet", tag)
        (found,) = self.inspect("image", tag)
        repository = tag.rpartition(":")[0]
        for name in found.get("RepoDigests") or ():
            if name.startswith(f"{repository}@"):
                return str(name.partition("@")[2])
        raise EngineOutage(f"the engine does not say by which digest {tag} is known")

    def inspect(self, kind: str, *names: str) -> list[dict[str, Any]]:
        return list(json.loads(self.run(kind, "inspect", *names))) if names else []

    def _inside(self, image: str, *command: str) -> str:
        return self.run("run", "--rm", "--network", "none", "--entrypoint", command[0], image, *command[1:])

    def compose(self) -> tuple[str, ...]:
        """The words that Compose is called with: the plugin, else the program of its own. Raises EngineOutage."""
        done = subprocess.run([self.binary, "compose", "version"], capture_output=True, check=False)
        if done.returncode == 0:
            return (self.binary, "compose")
        if found := shutil.which("docker-compose"):
            return (found,)
        raise EngineOutage("there is no Docker Compose", hint="install its plugin, or docker-compose 1.29 or newer")

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "COMPOSE_ANSI": "never"}
