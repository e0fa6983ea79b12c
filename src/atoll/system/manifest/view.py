"""What `atoll.toml` says, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from atoll.errors import SystemMistake
from atoll.system.failures import USUAL, FailureDetection
from atoll.system.manifest.tables import COLLECTOR

__all__ = [
    "GATEWAY_PATHS",
    "OWN_NAMES",
    "PORT",
    "RESERVED",
    "AuthSpec",
    "BusSpec",
    "CanarySpec",
    "ContainersSpec",
    "CorsSpec",
    "GatewaySpec",
    "MirrorSpec",
    "Secret",
    "ServiceSpec",
    "System",
    "TelemetrySpec",
    "TlsSpec",
]

ServiceKind = Literal["service", "client", "simulator"]

PORT = 8080
_YEAR_S = 365 * 86_400
_ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"

GATEWAY_PATHS = ("/health", "/openapi.json", "/docs")
"""What the gateway answers itself, and what is between it and a replica; no service can have these, nor anything below."""

OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""What a machine calls itself."""

RESERVED = frozenset(
    {"auth", "gateway", "envoy", "nats", "keys", "sys", "platform", "registry", "contracts", "console", "system"}
)


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that stands in no file: the environment variable `name`, upper-case, or the container host's secret `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class MirrorSpec:
    """One [gateway.mirrors.NAME] table. Clients get the answers of `primary`; `second` is asked the same, by nobody else, and
    both answers are compared. Only GET and HEAD below `paths` (none: all), and what `unsafe` names.
    """

    name: str
    primary: str
    second: str
    paths: tuple[str, ...] = ()
    share: float = 0.05
    unsafe: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CorsSpec:
    """Which pages of other origins may call. `headers` are those that they may send, `exposed` those that they may read."""

    origins: tuple[str, ...] = ()
    credentials: bool = False
    max_age_s: int = 600
    headers: tuple[str, ...] = ("authorization", "content-type", "idempotency-key", "if-match", "if-none-match")
    exposed: tuple[str, ...] = ("age", "etag", "idempotency-replayed", "location", "retry-after", "x-request-id")


@dataclass(frozen=True, slots=True)
class TlsSpec:
    """[gateway.tls]. Without files, the certificate is the local authority's, which this machine makes (`atoll up --tls`).

    `redirect_port` answers plain HTTP with the way to `public_url`; `hsts_s` None is `GatewaySpec.hsts_s`'s choice.
    """

    certificate: Path | None = None
    key: Path | None = None
    redirect_port: int | None = None
    hsts_s: int | None = None
    http3: bool = False
    where: str = ""

    @property
    def local(self) -> bool:
        return self.certificate is None


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """The one entry point. `public_url` is what clients type; the issuer of tokens is `public_url` + "/auth".

    `rate_limit` is what one client may ask over all operations; `address_rate_limit` what one address may, whoever asks.
    `body_limit_bytes` is for what has no limit of its own: mounted applications and the fallback. Above `memory_limit_mib` of
    its own, or `cpu_limit_percent` of the machine, it sheds requests. `failures` are for services that say nothing of them.
    The load balancers at `trusted_proxies` tell who the client is, in X-Forwarded-For or by the PROXY protocol.
    """

    port: int = PORT
    public_url: str = ""
    fallback: str | None = None
    compression: bool = False
    cors: CorsSpec | None = None
    rate_limit: str | None = None
    address_rate_limit: str | None = None
    body_limit_bytes: int | None = None
    tls: TlsSpec | None = None
    max_header_size_kib: int | None = None
    memory_limit_mib: int | None = None
    cpu_limit_percent: int | None = None
    mirrors: tuple[MirrorSpec, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    proxy_protocol: bool = False
    failures: FailureDetection = USUAL

    @property
    def url(self) -> str:
        return self.public_url or f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    @property
    def hsts_s(self) -> int:
        """A year, unless the manifest says otherwise. Nothing for this machine's own names: browsers remember them for every
        port, so one promise would break every other program that is developed there.
        """
        here_only = self.tls is not None and self.tls.local and self.tls.hsts_s is None
        return 0 if here_only else self.deployed_hsts_s

    @property
    def deployed_hsts_s(self) -> int:
        """The same where somebody brings the certificate, whether the manifest names its files or not."""
        if self.tls is None:
            return 0
        if self.tls.hsts_s is not None:
            return self.tls.hsts_s
        return 0 if urlsplit(self.url).hostname in OWN_NAMES else _YEAR_S


@dataclass(frozen=True, slots=True)
class AuthSpec:
    """The auth service. `options` is what it is told beyond these two: users and clients to seed, further lifetimes."""

    access_token_lifetime_s: int = 300
    database: str = "sqlite"
    database_url: Secret | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BusSpec:
    """The event bus. `sync_always`: what it has acknowledged survives a loss of power, at four times the cost.

    `servers` is how many it has in containers; None leaves that to the container host.
    """

    sync_always: bool = False
    servers: int | None = None


@dataclass(frozen=True, slots=True)
class TelemetrySpec:
    """Traces of this share of all requests, chosen at the gateway, are sent as OTLP over HTTP to `otlp_endpoint` ("": none)."""

    otlp_endpoint: str = ""
    sampling: float = 0.01


@dataclass(frozen=True, slots=True)
class ContainersSpec:
    """[containers]: `base` is the image with Python that all others are made on, `repository` stands before their names ("":
    the system's name), `network` is what Compose's subnets are cut from, `secret_store` is where External Secrets finds secrets
    ("": nobody asks it).
    """

    base: str = "python:3.11-slim"
    repository: str = ""
    network: str = "172.29.0.0/16"
    secret_store: str = ""


@dataclass(frozen=True, slots=True)
class CanarySpec:
    """Another version of a service beside it: `folder` and `python` are absolute, `weight` of a hundred clients meet it."""

    folder: Path
    weight: int = 0
    replicas: int = 1
    python: Path | None = None


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One [services.NAME] table. `folder`, `python` and `contract` are absolute; `where` is the table's file:line.

    `concurrency`: requests in flight to all of its replicas, at most. `outbound`: its containers may call the outside.
    A "client" has no bus user and calls the gateway; a "simulator" stands for something outside the system: local only,
    with no contract, routes, bus user or database, and others' settings may name its address as `{NAME.url}`.
    """

    name: str
    folder: Path
    kind: ServiceKind = "service"
    prefix: str = ""
    owner: str = ""
    replicas: int = 1
    concurrency: int | None = None
    python: Path | None = None
    command: tuple[str, ...] = ()
    contract: Path | None = None
    database_url: Secret | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    canary: CanarySpec | None = None
    failures: FailureDetection = USUAL
    outbound: bool = False


@dataclass(frozen=True, slots=True)
class System:
    """What `atoll.toml` says. `environment` is the overlay that was applied, "" for local."""

    name: str
    folder: Path
    gateway: GatewaySpec
    auth: AuthSpec
    services: tuple[ServiceSpec, ...]
    bus: BusSpec = BusSpec()
    telemetry: TelemetrySpec = TelemetrySpec()
    containers: ContainersSpec = ContainersSpec()
    environment: str = ""
    environments: tuple[str, ...] = ()

    @property
    def issuer(self) -> str:
        return f"{self.gateway.url}/auth"

    @property
    def seconds(self) -> frozenset[str]:
        """The services that mirrors ask a second time: no client reaches them, whatever their prefixes."""
        return frozenset(mirror.second for mirror in self.gateway.mirrors)

    def service(self, name: str) -> ServiceSpec:
        """Raises SystemMistake that names the services there are."""
        for spec in self.services:
            if spec.name == name:
                return spec
        known = ", ".join(spec.name for spec in self.services) or "none yet"
        raise SystemMistake(f"there is no service {name!r}", hint=f"the services of {self.name}: {known}")

    def with_variables(self, variables: Mapping[str, str]) -> System:
        """What the host's environment says beside the manifest, and wins: where traces go. Raises SystemMistake."""
        endpoint = variables.get(_ENDPOINT_VARIABLE, "").rstrip("/")
        if not endpoint:
            return self
        if fault := COLLECTOR(endpoint):
            raise SystemMistake(f"{_ENDPOINT_VARIABLE} {fault}", hint="a collector beside the system speaks TLS to the world")
        return replace(self, telemetry=replace(self.telemetry, otlp_endpoint=endpoint))

    def at_ports(self, port: int, redirect_port: int) -> System:
        """The same system with other gateway ports, its public URL on this machine along with them."""
        tls = self.gateway.tls
        if tls is not None and tls.redirect_port is not None:
            tls = replace(tls, redirect_port=redirect_port)
        moved = replace(self.gateway, port=port, public_url="", tls=tls)
        return replace(self, gateway=replace(moved, public_url=moved.url))

    def with_tls(self) -> System:
        """The same system with TLS at its gateway: as the manifest says, else with this machine's own certificate."""
        if self.gateway.tls is not None:
            return self
        public_url = self.gateway.public_url if self.gateway.public_url.startswith("https:") else ""
        return replace(self, gateway=replace(self.gateway, tls=TlsSpec(), public_url=public_url))
