"""`atoll rollout SERVICE`: new containers beside the old ones, confirmed by the gateway, before the old ones go.

Compose itself stops the old container before it starts the new one. Here the new ones are made and become healthy, the gateway
says that it sends requests to them, and the old ones are told to leave, one by one, and drain. When the new ones do not come
that far they are removed, and the old ones have never been touched.

A canary that is rendered no longer is not replaced but ended. Compose itself stops it while clients are still sent to it.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.deploy.docker import Docker
from atoll.deploy.images import APP_PORT, GATEWAY, PROVISION
from atoll.deploy.secrets import BUS_CONFIGURATION, SETTLED_CONFIGURATION
from atoll.errors import EngineOutage, SystemMistake
from atoll.provision.job import FORMER_FOLDER
from atoll.registry.replica import canaries

__all__ = ["Rollout"]

_HEALTHY_S = 120.0
_CONFIRM_S = 30.0
_STOP_S = 30
_PAUSE_S = 0.2
_CONTRACT = "ATOLL_CONTRACT_DIGEST"
_PROJECT = "COMPOSE_PROJECT_NAME"


@dataclass(frozen=True, slots=True)
class Rollout:
    """`folder` is where `atoll render compose` wrote, `say` is told every step."""

    docker: Docker
    folder: Path
    say: Callable[[str], None]

    def run(self, service: str) -> None:
        """Returns when only new containers are left; of a canary that is not rendered any more, none. Raises SystemMistake,
        EngineOutage: then only the old ones are.
        """
        if service.endswith(canaries("")) and service not in self._compose("config", "--services").split():
            self._end(service)
            return
        old = self._containers(service)
        if not old:
            raise SystemMistake(f"{service} does not run here", where=str(self.folder), hint="docker compose up -d")
        self._provision()
        there = self._containers(service, running=False)
        try:
            new = self._start_beside(service, old, there)
        except BaseException:  # also when a person has had enough: nothing is left half done
            self._remove(set(self._containers(service, running=False)) - set(there))
            raise
        self.say(f"{', '.join(_names(new))}: the gateway sends requests")
        for container in old:
            self._leave(container)
        self._compose("up", "-d", "--no-deps", "--no-recreate", "--scale", f"{service}={len(new)}", service)
        self._settle(service)

    def _end(self, canary: str) -> None:
        """First nobody is sent to it: a share of the clients without a container would be a share of failures."""
        old = self._containers(canary, running=False)
        if not old:
            raise SystemMistake(f"{canary} is neither rendered nor here", where=str(self.folder))
        self._provision()
        otherwise = f"the gateway has not confirmed that {canary} gets no requests"
        self._until(lambda: self._is_given_up(canary), _CONFIRM_S, otherwise)
        self.say(f"{canary}: the gateway sends it no requests any more")
        for container in old:
            self._leave(container)
        self._settle(canary)

    def _is_given_up(self, canary: str) -> bool:
        shares = self._applied().get("canaries")
        return shares is not None and canary.removesuffix(canaries("")) not in shares

    def _settle(self, service: str) -> None:
        """What only the old ones consumed is taken away: on the bus by provision, and from nats.conf with the last of them."""
        folder, name = self.folder / "provision" / FORMER_FOLDER, service.removesuffix(canaries(""))
        used = self._contracts_of([*self._containers(name), *self._containers(canaries(name))])
        gone = [file for file in sorted(folder.glob(f"{name}.*.json")) if file.stem.partition(".")[2] not in used]
        if not gone:
            return
        for file in gone:
            file.unlink()
        if not any(folder.glob("*.json")):
            secrets = self.folder / "secrets"
            (secrets / SETTLED_CONFIGURATION).replace(secrets / BUS_CONFIGURATION)
        self._provision()
        self.say(f"{service}: what only the old ones consumed is taken away")

    def _contracts_of(self, containers: Sequence[str]) -> set[str]:
        """The digests of those that these containers were made for."""
        variables = [line for one in self.docker.inspect("container", *containers) for line in one["Config"]["Env"]]
        return {line.partition("=")[2] for line in variables if line.startswith(f"{_CONTRACT}=")}

    def _provision(self) -> None:
        """What the new version publishes and consumes, it may from now on."""
        self._compose("up", "-d", "--no-deps", "--force-recreate", PROVISION)
        (job,) = self._containers(PROVISION, running=False)
        code = self.docker.run("wait", job).strip()
        if code != "0":
            raise EngineOutage(f"provision ended with {code}: {self._last_words(job)}")
        self.say("the bus is provisioned")

    def _start_beside(self, service: str, old: Sequence[str], there: Sequence[str]) -> list[dict[str, Any]]:
        self._compose("up", "-d", "--no-deps", "--no-recreate", "--scale", f"{service}={2 * len(old)}", service)
        new = [one for one in self._containers(service, running=False) if one not in there]
        if not new:
            raise EngineOutage(f"Compose made no new container of {service}")
        self.say(f"{', '.join(_names(self.docker.inspect('container', *new)))}: started beside the others")
        found = self._until_healthy(new)
        addresses = {f"{address}:{APP_PORT}" for one in found for address in _addresses(one)}
        self._until(
            lambda: len(addresses & set(self._routed(service))) == len(new), _CONFIRM_S, "the gateway does not know them"
        )
        return found

    def _until_healthy(self, containers: Sequence[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        def healthy() -> bool:
            found[:] = self.docker.inspect("container", *containers)
            for one in found:
                if not one["State"]["Running"] or one["RestartCount"]:
                    raise EngineOutage(f"{one['Name'].lstrip('/')} ended: {self._last_words(one['Id'])}")
            return all(one["State"].get("Health", {}).get("Status") == "healthy" for one in found)

        self._until(healthy, _HEALTHY_S, "they do not become healthy")
        return found

    def _routed(self, service: str) -> list[str]:
        """Where the gateway sends requests for a service."""
        return list(self._applied().get("endpoints", {}).get(service, ()))

    def _applied(self) -> dict[str, Any]:
        """What the gateway does, as its controller confirmed; {} while it does not say."""
        gateways = self._containers(GATEWAY)
        if not gateways:
            raise EngineOutage("the gateway does not run")
        with suppress(EngineOutage, ValueError):  # it is written anew just now
            return dict(json.loads(self.docker.run("exec", gateways[0], "cat", "/data/applied.json")))
        return {}

    def _leave(self, container: str) -> None:
        """SIGTERM: it leaves the registry, serves for the drain time, finishes what it has, and ends."""
        (found,) = self.docker.inspect("container", container)
        self.docker.run("stop", "--time", str(_STOP_S), container)
        self.docker.run("rm", container)
        self.say(f"{found['Name'].lstrip('/')}: drained and removed")

    def _remove(self, containers: Iterable[str]) -> None:
        for container in containers:
            self.docker.run("rm", "--force", container)

    def _until(self, condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise EngineOutage(f"{otherwise} within {timeout_s:g} s", hint="the containers that were there go on as before")
            time.sleep(_PAUSE_S)

    def _last_words(self, container: str) -> str:
        return "\n".join(self.docker.logs(container).splitlines()[-5:])

    def _containers(self, service: str, *, running: bool = True) -> list[str]:
        """Ids, of those that run or of all. Compose's own `ps` means something else in each of its versions."""
        labels = {"project": self._project, "service": service, "oneoff": "False"}
        filters = [word for name, value in labels.items() for word in ("--filter", f"label=com.docker.compose.{name}={value}")]
        return self.docker.run("ps", "--quiet", "--no-trunc", *([] if running else ["--all"]), *filters).split()

    @property
    def _project(self) -> str:
        """As Compose finds it."""
        if own := os.environ.get(_PROJECT):
            return own
        try:
            lines = (self.folder / ".env").read_text("utf-8").splitlines()
        except OSError as error:
            detail = f"nothing was rendered here: {error.strerror}"
            raise SystemMistake(detail, where=str(self.folder), hint="atoll render compose") from None
        return next((line.partition("=")[2] for line in lines if line.startswith(f"{_PROJECT}=")), self.folder.name)

    def _compose(self, *arguments: str) -> str:
        command = [*self.docker.compose(), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.docker.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise EngineOutage(f"compose {arguments[0]} failed: {(done.stderr or done.stdout).strip()[-1500:]}")
        return done.stdout


def _names(containers: Iterable[dict[str, Any]]) -> list[str]:
    return [one["Name"].lstrip("/") for one in containers]


def _addresses(container: dict[str, Any]) -> list[str]:
    return [one["IPAddress"] for one in container["NetworkSettings"]["Networks"].values()]
