"""The gateway on this machine: Envoy and its controller under supervision, and what the controller confirms."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from atoll.engines import envoy as engine
from atoll.errors import AtollError, SystemMistake
from atoll.gateway import drain, validation
from atoll.gateway.admin import Admin
from atoll.gateway.files import write_initial, write_proof
from atoll.gateway.ir import Endpoint, Listener, Tls
from atoll.gateway.known import Known, SystemEntry
from atoll.gateway.refused import refused
from atoll.gateway.secrets import Origin, write_secrets
from atoll.gateway.translate import translate
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from atoll.host import logs, tls
from atoll.host.machine import Machine
from atoll.host.ports import is_free, port_holder
from atoll.host.probes import probe, until_ready
from atoll.host.processes import LOOPBACK, ProcessSpec, engine_process, passed
from atoll.provision.document import system_document
from atoll.system.contract import Contract
from atoll.system.manifest import GatewaySpec, System

__all__ = ["ENVOY", "GatewayHost", "known_at_start", "listener_of"]

ENVOY, CONTROLLER, COMPARER = "envoy", "gateway", "gateway-mirror"
_PAUSE_S = 0.005
_CONFIRM_S = 5.0
_FINISH_S = 5.0


@dataclass
class GatewayHost:
    machine: Machine

    @property
    def root(self) -> Path:
        return self.machine.layout.gateway

    @property
    def port(self) -> int:
        return self.machine.system.gateway.port

    @property
    def admin(self) -> Endpoint:
        return Endpoint(LOOPBACK, self.machine.ports.lease("envoy.admin"))

    @property
    def local_tls(self) -> tls.LocalTls:
        return tls.LocalTls(self.machine.layout.tls)

    @property
    def ca(self) -> Path | None:
        """The authority that clients have to be told of."""
        spec = self.machine.system.gateway.tls
        return self.local_tls.ca if spec is not None and spec.local else None

    @property
    def listener(self) -> Listener:
        return replace(listener_of(self.machine.system.gateway), comparer=self.comparer)

    @property
    def comparer(self) -> Endpoint | None:
        """Where mirrors' answers are compared, None without mirrors: then there is no such process."""
        return Endpoint(LOOPBACK, self.machine.ports.lease("mirror")) if self.machine.system.gateway.mirrors else None

    def version(self) -> str:
        return self.machine.versions.of(engine.find(), engine.version)

    def check_ports(self) -> None:
        """Raises SystemMistake that says who has a port of the gateway."""
        settings = self.machine.system.gateway.tls
        for port in (self.port, settings.redirect_port if settings else None):
            if port is None or is_free(port):
                continue
            who = port_holder(port) or "another process"
            raise SystemMistake(
                f"port {port}, the gateway's, is taken by {who}",
                where=str(self.machine.system.folder / "atoll.toml"),
                hint="stop that, choose another [gateway] port, or let `atoll up --isolated` choose one",
            )

    async def write(self, contracts: Mapping[str, Contract]) -> None:
        """What Envoy and the controller begin with: what was known last of tokens, and no replica, since none runs yet.

        Raises SystemMistake when Envoy would refuse it; then Envoy's files are as they were.
        """
        self._forget_applied()
        known = known_at_start(self.machine.system, contracts)
        with suppress(OSError, AtollError):
            last = Known.parse((self.root / "inputs.json").read_bytes())
            known = replace(known, keys=last.keys, revocations=last.revocations, providers=last.providers)
        if self.ca is not None:
            self.local_tls.renew(datetime.now(UTC), self.machine.variables)
        write_secrets(Folders(str(self.root.absolute())), self._origins())
        await self._check(known)
        write_initial(self.root, self.listener, self.admin, known)

    async def _check(self, known: Known) -> None:
        """Asks Envoy before it starts: one that starts with files that it refuses answers 404 to everybody."""
        folders = Folders(str(self.root.absolute()))
        write_proof(folders)

        async def judge(one: Known) -> str:
            return await validation.check(render(translate(one, self.listener), folders))

        if not (reason := await judge(known)):
            return
        for key, left_out in (await refused(known, None, judge)).items():
            service = key.partition(".")[0]
            where, hint = self.machine.system.service(service).where, f"`atoll describe {service}` prints it"
            raise SystemMistake(f"Envoy refuses the contract of {service}: {left_out.reason}", where=where, hint=hint)
        raise SystemMistake(f"Envoy refuses this gateway: {reason}", where=str(self.machine.system.folder / "atoll.toml"))

    async def start(self, bus_url: str) -> None:
        """Returns when Envoy takes connections; the controller goes on by itself. Raises EngineOutage."""
        engine.check_inotify()
        supervisor = self.machine.supervisor
        await asyncio.gather(
            supervisor.start(self._envoy(), self._probe),
            supervisor.start(self._controller(bus_url), _at_once),
            *(supervisor.start(self._comparer(one), probe) for one in [self.comparer] if one),
        )

    async def drain(self) -> None:
        """Nobody new comes, and who is there goes with the next answer."""
        if ENVOY in self.machine.supervisor.children:
            await drain.begin(Admin(self.admin))

    async def finish(self) -> None:
        """Once services have ended: until what they have answered has arrived."""
        if ENVOY in self.machine.supervisor.children:
            await drain.finish(Admin(self.admin), _FINISH_S)

    async def renew(self) -> None:
        """Keeps the local certificate from ending, as long as it is awaited."""
        if self.ca is not None:
            await tls.renew_for_ever(self.local_tls, self.machine.variables)

    async def limit_log(self) -> None:
        """Sets a full access log aside. Envoy goes on with the renamed file until it has heard of it, so it is told again."""
        log = self.root / "access.log"
        if logs.is_full(log):
            logs.rename(log)
        if not log.exists():
            await engine.reopen_logs(self.admin.host, self.admin.port)

    async def confirm(self, service: str, address: str) -> bool:
        """Waits until Envoy sends requests for `service` to `address`; False when that takes too long."""
        return await self._until(lambda applied: address in _endpoints(applied, service), _CONFIRM_S)

    async def confirm_gone(self, service: str, address: str) -> bool:
        """Waits until Envoy sends no further request to `address`; False when that takes too long."""
        return await self._until(lambda applied: address not in _endpoints(applied, service), _CONFIRM_S)

    async def confirm_share(self, service: str, percent: int) -> bool:
        """Waits until Envoy gives the canary of `service` so many of a hundred clients; False when that takes too long."""
        return await self._until(lambda applied: applied.get("canaries", {}).get(service, 0) == percent, _CONFIRM_S)

    async def confirm_all(self, addresses: Mapping[str, set[str]], timeout_s: float) -> bool:
        """The same for every service's whole set."""
        return await self._until(
            lambda applied: all(want <= set(_endpoints(applied, name)) for name, want in addresses.items()), timeout_s
        )

    async def _until(self, condition: Callable[[dict[str, Any]], bool], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not condition(self.applied()):
            if time.monotonic() > end:
                return False
            await asyncio.sleep(_PAUSE_S)
        return True

    def applied(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.root / "applied.json").read_bytes()))
        except (OSError, ValueError):
            return {}

    def _forget_applied(self) -> None:
        """What a former controller reported says nothing about this Envoy; the count of versions goes on."""
        applied = self.applied()
        if applied:
            draft = self.root / ".applied.json.draft"
            draft.write_bytes(msgspec.json.encode({**applied, "endpoints": {}}))
            draft.replace(self.root / "applied.json")

    def _origins(self) -> list[Origin]:
        spec = self.machine.system.gateway.tls
        return [Origin("server_certificate", tls.files(spec, self.local_tls), spec.where)] if spec else []

    def _envoy(self) -> ProcessSpec:
        command = engine.command(engine.find(), self.root / "bootstrap.json", self.machine.layout.log(ENVOY))
        return engine_process(ENVOY, "gateway", command, port=self.port, variables=self.machine.variables)

    def _controller(self, bus_url: str) -> ProcessSpec:
        own = {
            "ATOLL_BUS_URL": bus_url,
            "ATOLL_GATEWAY_DIR": str(self.root),
            "ATOLL_GATEWAY_PORT": str(self.port),
            "ATOLL_ENVOY_ADMIN": str(self.admin),
            **self._tls_variables(),
            **({"ATOLL_MIRROR_ADDRESS": str(self.comparer)} if self.comparer else {}),
        }
        return ProcessSpec(
            name=CONTROLLER,
            kind="gateway",
            argv=(sys.executable, "-P", "-m", "atoll.gateway"),
            folder=self.root,
            log=self.machine.layout.log(CONTROLLER),
            environment={**passed(self.machine.variables), **own},
            ready="started",
            stop_timeout_s=5.0,
        )

    def _tls_variables(self) -> dict[str, str]:
        settings = listener_of(self.machine.system.gateway).tls
        if settings is None:
            return {}
        ((certificate, key),) = (origin.files for origin in self._origins())
        found = {
            "ATOLL_GATEWAY_CERTIFICATE": str(certificate),
            "ATOLL_GATEWAY_KEY": str(key),
            "ATOLL_GATEWAY_HSTS_S": str(settings.hsts_s),
            "ATOLL_GATEWAY_REDIRECT_PORT": str(settings.redirect_port or ""),
            "ATOLL_GATEWAY_QUIC": "1" if settings.http3 else "",
        }
        return {name: value for name, value in found.items() if value}

    def _comparer(self, address: Endpoint) -> ProcessSpec:
        own = {
            "ATOLL_GATEWAY_DIR": str(self.root),
            "ATOLL_MIRROR_DIR": str(self.machine.layout.mirror),
            "ATOLL_MIRROR_ADDRESS": str(address),
        }
        return ProcessSpec(
            name=COMPARER,
            kind="gateway",
            argv=(sys.executable, "-P", "-m", "atoll.gateway.mirror"),
            folder=self.root,
            log=self.machine.layout.log(COMPARER),
            environment={**passed(self.machine.variables), **own},
            port=address.port,
            ready="tcp",
            stop_timeout_s=5.0,
        )

    async def _probe(self, _spec: ProcessSpec) -> None:
        await until_ready(lambda: engine.ready(self.admin.host, self.admin.port))


def _endpoints(applied: Mapping[str, Any], service: str) -> list[str]:
    return list(applied.get("endpoints", {}).get(service, ()))


def listener_of(gateway: GatewaySpec) -> Listener:
    """What Envoy is started with on this machine."""
    tls = Tls(gateway.hsts_s, gateway.tls.redirect_port, gateway.tls.http3) if gateway.tls else None
    return Listener(LOOPBACK, gateway.port, tls=tls)


def known_at_start(system: System, contracts: Mapping[str, Contract]) -> Known:
    """What a gateway knows of a system before anybody has announced anything: no keys, no replicas."""
    entry = msgspec.convert(system_document(system), SystemEntry)
    services = {
        name: msgspec.structs.replace(one, digests=(contracts[name].digest,))
        for name, one in entry.services.items()
        if name in contracts
    }
    return Known(
        msgspec.structs.replace(entry, services=services),
        contracts={f"{name}.{contract.digest}": contract for name, contract in contracts.items()},
    )


async def _at_once(_spec: ProcessSpec) -> None:
    """A process whose health shows in what it does."""
