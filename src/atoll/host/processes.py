"""The plan: which processes a system needs on this machine, as frozen data. Pure: nothing is looked up, opened or started.

What an engine needs its own module says (`engine_process` takes it over); auth, services, commands and simulators are
planned here. What has to be there before what is `host`'s business.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from atoll.engines.process import Command
from atoll.errors import SystemMistake
from atoll.host.layout import Layout
from atoll.system.auth import AUTH_MODULE, auth_kind, auth_options, auth_service
from atoll.system.contract import Contract
from atoll.system.manifest import Secret, ServiceSpec, System
from atoll.system.plan import AUTH

__all__ = ["Known", "ProcessSpec", "Slot", "auth", "replica", "service_environment", "simulator"]

Kind = Literal["bus", "database", "gateway", "auth", "service", "client", "simulator"]

LOOPBACK = "127.0.0.1"
DRAIN_S = 15.0  # the handler's budget and the drain time, with a margin
# What a service process may see of the host's environment: nothing of another service's, nothing that changes its path.
_PASSED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "TERM",
    "NO_COLOR",
    "PYTHONDONTWRITEBYTECODE",
    "ATOLL_FAULTS",
)


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process. `inherits`: the host binds `port` and hands the listening socket over. `ready` says how health is asked."""

    name: str
    kind: Kind
    argv: tuple[str, ...]
    folder: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    service: str = ""
    port: int | None = None
    inherits: bool = False
    ready: Literal["http", "tcp", "engine", "started"] = "http"
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = DRAIN_S
    start_timeout_s: float = 60.0
    user: int | None = None
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """The n-th place for a replica of a service: the same name and port whenever it is filled, so that leases come back."""

    service: str
    number: int
    port: int

    @property
    def name(self) -> str:
        return f"{self.service}-{self.number}"

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"


@dataclass(frozen=True, slots=True)
class Known:
    """What the plan is computed from beside the manifest. URLs by service name; `variables` is the host's environment;
    `operator_secret` is what `atoll auth` proves itself to auth with; `gateway_ca` is an authority of this machine alone.
    """

    layout: Layout
    database_urls: Mapping[str, str]
    bus_urls: Mapping[str, str]
    simulator_urls: Mapping[str, str] = field(default_factory=dict)
    gateway_ca: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    operator_secret: str = ""


def passed(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: variables[name] for name in _PASSED if name in variables}


def service_environment(system: System, spec: ServiceSpec, contract: Contract, slot: Slot, known: Known) -> dict[str, str]:
    """Everything one replica is told. Raises SystemMistake when a setting names what there is not."""
    environment = {
        **passed(known.variables),
        **_own_variables(contract, known.variables),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "ATOLL_SERVICE": spec.name,
        "ATOLL_FOLDER": str(spec.folder),
        "ATOLL_REPLICA": slot.name,
        "ATOLL_LISTEN": slot.address,
        "ATOLL_ADDRESS": slot.address,
        "ATOLL_DATABASE_URL": known.database_urls.get(spec.name, ""),
        "ATOLL_BUS_URL": known.bus_urls.get(spec.name, ""),
        "ATOLL_ISSUER": system.issuer,
        "ATOLL_AUDIENCE": system.name,
        "ATOLL_STATE_DIR": str(known.layout.service_state(spec.name)),
        "ATOLL_CONTRACT_DIGEST": contract.digest,
        "ATOLL_MODE": "local",
        "ATOLL_SETTINGS": json.dumps(settings(spec, known), sort_keys=True),
        "OTEL_EXPORTER_OTLP_ENDPOINT": system.telemetry.otlp_endpoint,
    }
    if spec.kind == "client":
        environment |= _gateway(system, known)
    return {name: value for name, value in environment.items() if value}


def _gateway(system: System, known: Known) -> dict[str, str]:
    """Where a client of this machine calls it. A certificate is for a name; one that nobody else trusts is named, and added to
    those that Python's and OpenSSL's programs trust.
    """
    if system.gateway.tls is None:
        return {"ATOLL_GATEWAY_URL": f"http://{LOOPBACK}:{system.gateway.port}"}
    found = {"ATOLL_GATEWAY_URL": system.gateway.url}
    if known.gateway_ca is not None:
        found["ATOLL_GATEWAY_CA"] = str(known.gateway_ca)
        found["SSL_CERT_FILE"] = str(known.gateway_ca.with_name("trusted.pem"))
    return found


def _own_variables(contract: Contract, variables: Mapping[str, str]) -> dict[str, str]:
    """A real environment variable wins over the manifest, but only for a setting that this service declared."""
    names = {setting.name.upper() for setting in contract.settings}
    return {name: value for name, value in variables.items() if name in names}


def settings(spec: ServiceSpec, known: Known) -> dict[str, Any]:
    """The manifest's values: `{NAME.url}` is a simulator's address, a secret is this machine's environment variable."""
    return {key: _setting(spec, key, value, known) for key, value in spec.settings.items() if _given(value, known)}


def _given(value: Any, known: Known) -> bool:
    """A secret that is not in the environment is left out, so that the service can say what it misses."""
    return not isinstance(value, Secret) or value.name.upper() in known.variables


def _setting(spec: ServiceSpec, key: str, value: Any, known: Known) -> Any:
    if isinstance(value, Secret):
        return known.variables[value.name.upper()]
    if not isinstance(value, str):
        return value
    for name, url in known.simulator_urls.items():
        value = value.replace(f"{{{name}.url}}", url)
    if value.startswith("{") and value.endswith(".url}"):
        hint = f"simulators here: {', '.join(known.simulator_urls) or 'none'}"
        raise SystemMistake(
            f"the setting {key} of {spec.name} names {value}, which is no simulator", where=spec.where, hint=hint
        )
    return value


def replica(system: System, spec: ServiceSpec, contract: Contract, slot: Slot, known: Known) -> ProcessSpec:
    """One replica of a service. A `command` gets its address substituted and a probe of its port; ours is asked for health."""
    own = not spec.command
    return ProcessSpec(
        name=slot.name,
        kind="client" if spec.kind == "client" else "service",
        argv=(str(spec.python or sys.executable), "-P", "-m", "atoll.service", "run") if own else _command(spec, slot),
        folder=spec.folder if spec.folder.is_dir() else system.folder,
        log=known.layout.log(slot.name),
        environment=service_environment(system, spec, contract, slot, known),
        service=spec.name,
        port=slot.port,
        inherits=own,
        ready="http" if own else "tcp",
    )


def auth(system: System, contract: Contract, slot: Slot, known: Known) -> ProcessSpec:
    """The auth service: a process like any other, its options in a variable of its own."""
    spec = auth_service(system)
    environment = service_environment(system, spec, contract, slot, known)
    secrets = {name: value for name, value in known.variables.items() if name.startswith(("AUTH_USER_", "AUTH_CLIENT_"))}
    secrets["AUTH_OPERATOR_SECRET"] = known.operator_secret
    return ProcessSpec(
        name=slot.name,
        kind="auth",
        argv=(sys.executable, "-P", "-m", "atoll.service", "run", "--module", AUTH_MODULE),
        folder=known.layout.service_state(AUTH),
        log=known.layout.log(slot.name),
        environment={
            **environment,
            **secrets,
            "ATOLL_AUTH": json.dumps(auth_options(system), sort_keys=True),
            **auth_kind(system),
        },
        service=AUTH,
        port=slot.port,
        inherits=True,
    )


def simulator(system: System, spec: ServiceSpec, slot: Slot, known: Known) -> ProcessSpec:
    """A stand-in for something outside: told its address and where it may keep files, and nothing of the system."""
    data = str(known.layout.service_data(spec.name))
    environment = {**passed(known.variables), "PYTHONUNBUFFERED": "1", "ATOLL_DATA_DIR": data}
    environment |= {name.upper(): str(value) for name, value in settings(spec, known).items()}
    return ProcessSpec(
        name=slot.name,
        kind="simulator",
        argv=_command(spec, slot),
        folder=spec.folder if spec.folder.is_dir() else system.folder,
        log=known.layout.log(slot.name),
        environment=environment,
        service=spec.name,
        port=slot.port,
        ready="tcp",
        stop_timeout_s=3.0,
    )


def engine_process(
    name: str, kind: Kind, command: Command, *, port: int, variables: Mapping[str, str], service: str = ""
) -> ProcessSpec:
    """An engine as its own module wants it started. Its health is asked by that module too."""
    return ProcessSpec(
        name=name,
        kind=kind,
        argv=command.arguments,
        folder=command.folder,
        log=command.log,
        environment={**passed(variables), **command.environment},
        service=service,
        port=port,
        ready="engine",
        stop_timeout_s=10.0,
        user=command.user,
        group=command.user,
    )


def _command(spec: ServiceSpec, slot: Slot) -> tuple[str, ...]:
    """`python` as the first word is atoll's own interpreter, so that a manifest needs no absolute path."""
    words = [word.replace("{host}", LOOPBACK).replace("{port}", str(slot.port)) for word in spec.command]
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    return tuple(words)


def host_variables() -> dict[str, str]:
    return dict(os.environ)
