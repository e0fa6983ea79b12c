"""`atoll.toml`: the frozen view, and the rules it has to keep. `files.py` reads it from disk.

Every mistake is a SystemMistake with file:line and the keys or values that would be right.
"""

from __future__ import annotations

import keyword
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from atoll.errors import SystemMistake
from atoll.system.failures import USUAL, FailureDetection
from atoll.system.positions import Positions, scan, syntax_error_line
from atoll.system.rates import MEANING, Rate

__all__ = [
    "GATEWAY_PATHS",
    "MOST_REPLICAS",
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
    "parse",
]

ServiceKind = Literal["service", "client", "simulator"]

MOST_REPLICAS = 100
_PORT = 8080
_NETWORK_PREFIX = 20
_ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"

GATEWAY_PATHS = ("/health", "/openapi.json", "/docs")
"""What the gateway answers itself, and what is between it and a replica; no service can have these, nor anything below."""

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

    port: int = _PORT
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
        return 0 if urlsplit(self.url).hostname in _OWN_NAMES else _YEAR_S


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
        if fault := _COLLECTOR(endpoint):
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


def parse(text: str, path: Path, environment: str = "") -> System:
    """The system that `text` describes, `path` being where it stands. Touches no file. Raises SystemMistake."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = syntax_error_line(error) or len(text.splitlines())
        raise SystemMistake(f"this is not TOML: {error}", where=f"{path}:{line}", hint="see https://toml.io") from None
    reader = _Reader(path, scan(text))
    reader.check_format(document)
    reader.check_table(document, _ROOT, ())
    for name, overlay in document.get("environments", {}).items():
        reader.check_table(overlay, _OVERLAY, ("environments", name))
    return reader.system(document, environment)


Check = Callable[[Any], str]  # what is wrong with a value, "" when nothing is


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and value else f"must be a text, not {_shown(value)}"


def _matching(pattern: str, meaning: str) -> Check:
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        return "" if isinstance(value, str) and compiled.fullmatch(value) else f"must be {meaning}, not {_shown(value)}"

    return check


def _located(pattern: str, meaning: str) -> Check:
    """A URL that can be split: its port is one, and what stands in brackets is an address."""
    matching = _matching(pattern, meaning)

    def check(value: Any) -> str:
        wrong = matching(value)
        with suppress(ValueError):
            return wrong or ("" if urlsplit(value).port != 0 else f"must have a port from 1 to 65535, not {_shown(value)}")
        return f"must have a host, and a port from 1 to 65535 or none, not {_shown(value)}"

    return check


def _whole(low: int, high: int) -> Check:
    def check(value: Any) -> str:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return "" if fits else f"must be a whole number from {low} to {high}, not {_shown(value)}"

    return check


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> str:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        return "" if fits else f"must be a number from {low:g} to {high:g}, not {_shown(value)}"

    return check


def _network(value: Any) -> str:
    with suppress(ValueError):
        if isinstance(value, str) and ip_network(value).version == 4 and ip_network(value).prefixlen <= _NETWORK_PREFIX:
            return ""
    return f"must be an IPv4 network of at least /{_NETWORK_PREFIX}, like 172.29.0.0/16, not {_shown(value)}"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else f"must be true or false, not {_shown(value)}"


def _servers(value: Any) -> str:
    fits = value in (1, 3) and not isinstance(value, bool)
    return "" if fits else f"must be 1 or 3, not {_shown(value)}"


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        return "" if value in choices else f"must be one of {', '.join(map(repr, choices))}, not {_shown(value)}"

    return check


def _texts(value: Any) -> str:
    fits = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
    return "" if fits else f'must be a list of texts, like ["node", "server.js"], not {_shown(value)}'


def _scopes(value: Any) -> str:
    fits = isinstance(value, list) and all(isinstance(item, str) and item and " " not in item for item in value)
    return "" if fits else f'must be a list of scopes, like ["orders:read"], not {_shown(value)}'


def _each(pattern: str, meaning: str) -> Check:
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        fits = isinstance(value, list) and all(isinstance(item, str) and compiled.fullmatch(item) for item in value)
        return "" if fits else f"must be a list of {meaning}, not {_shown(value)}"

    return check


def _rate(value: Any) -> str:
    try:
        Rate.parse(value)
    except ValueError:
        return f"must be {MEANING}, not {_shown(value)}"
    return ""


def _rate_per_second(value: Any) -> str:
    """It protects the gateway itself: longer windows would let through at once what it is there to keep out."""
    return _rate(value) or ("" if value.endswith("/s") else f'must be a rate per second, like "500/s", not {_shown(value)}')


def _networks(value: Any) -> str:
    """Not everybody's: whoever connects could say then who it is."""
    try:
        fits = isinstance(value, list) and all(isinstance(item, str) and ip_network(item).prefixlen > 0 for item in value)
    except ValueError:
        fits = False
    return "" if fits else f'must be a list of networks, like ["10.0.0.0/8", "fd00::/8"], not {_shown(value)}'


def _secret(value: Any) -> str:
    fits = isinstance(value, dict) and set(value) == {"secret"} and isinstance(value["secret"], str)
    return "" if fits else f'must be {{ secret = "name" }}, so that no file holds it, not {_shown(value)}'


def _setting(value: Any) -> str:
    plain = isinstance(value, (str, int, float, bool)) or (
        isinstance(value, list) and all(isinstance(item, (str, int, float, bool)) for item in value)
    )
    return "" if plain or not _secret(value) else f'must be a plain value or {{ secret = "name" }}, not {_shown(value)}'


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    names: dict[type, str] = {str: "the text ", dict: "the table ", list: "the list "}
    return f"{names.get(type(value), '')}{value!r}"


@dataclass(frozen=True, slots=True)
class _Table:
    """The keys a table may have. `named`: any key is allowed and holds a table (or a value) of this one shape."""

    keys: Mapping[str, Check | _Table] = field(default_factory=dict)
    named: Check | _Table | None = None
    names: Check = _text


# No dot segments: requests for them never arrive, because a path is normalised before it is matched.
_SEGMENTS = r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+"
_PREFIX = _matching(rf"/|{_SEGMENTS}", "a path like /orders, or /")
# No user before the host: `http://localhost:1@evil` is a URL of evil.
_AUTHORITY = r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
_URL = _located(rf"{_AUTHORITY}({_SEGMENTS})?", "a URL like https://shop.example, without a slash at its end")
_COLLECTOR = _matching(
    r"http://([A-Za-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?", "a URL like http://127.0.0.1:4318, without TLS and path"
)
_NAME = _matching(r"[a-z][a-z0-9_-]{0,39}", "lower-case letters, digits, - and _, beginning with a letter")
_DAY_S = 86_400
_MIRROR = _Table(
    {
        "from": _NAME,
        "to": _NAME,
        "paths": _each(_SEGMENTS, 'paths, like ["/reviews"]'),
        "share": _number(0, 1),
        "unsafe": _each(r"(POST|PUT|PATCH|DELETE) /\S*", 'operations, like ["POST /reviews"]'),
        "ignore": _each(r"header:[!#$%&'*+.^_`|~0-9A-Za-z-]+|body:(/.*)?", 'rules, like ["header:etag", "body:/items/*/id"]'),
    }
)
_ORIGIN = r"[a-z][a-z0-9+.-]*://(\*\.)?[a-z0-9.-]+(:[0-9]+)?"
_HEADER_NAME = r"[a-z0-9-]+"
_CORS = _Table(
    {
        "origins": _each(rf"\*|{_ORIGIN}", "origins, like https://shop.example, https://*.shop.example or *"),
        "credentials": _flag,
        "max_age_s": _whole(0, _DAY_S),
        "headers": _each(_HEADER_NAME, "header names in lower case"),
        "exposed": _each(_HEADER_NAME, "header names in lower case"),
    }
)
_YEAR_S = 365 * _DAY_S
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_TLS = _Table(
    {
        "certificate": _text,
        "key": _text,
        "redirect_port": _whole(1, 65_535),
        "hsts_s": _whole(0, 2 * _YEAR_S),
        "http3": _flag,
    }
)
# Of a service, and of the gateway for all services that say nothing else.
_FAILURES: Mapping[str, Check | _Table] = {
    "health_check": _Table(
        {
            "interval_s": _number(0.1, 300),
            "timeout_s": _number(0.1, 60),
            "unhealthy_threshold": _whole(1, 100),
            "healthy_threshold": _whole(1, 100),
        }
    ),
    "outlier_ejection": _Table(
        {
            "consecutive_failures": _whole(0, 1000),
            "consecutive_5xx": _whole(0, 1000),
            "ejection_s": _number(0.1, 3600),
            "max_ejection_percent": _whole(0, 100),
        }
    ),
    "retries": _Table(
        {
            "count": _whole(0, 100),
            "budget_percent": _number(0, 100),
            "min_concurrent": _whole(0, 10_000),
            "try_timeout_s": _number(0.01, 3600),
        }
    ),
    "slow_start_s": _number(0, 600),
    "panic_threshold_percent": _whole(0, 100),
    "max_connections": _whole(1, 65_535),
}
_GATEWAY = _Table(
    {
        **_FAILURES,
        "port": _whole(1, 65_535),
        "public_url": _URL,
        "fallback": _NAME,
        "compression": _flag,
        "cors": _CORS,
        "rate_limit": _rate,
        "address_rate_limit": _rate_per_second,
        "body_limit_bytes": _whole(1024, 1 << 31),
        "tls": _TLS,
        "max_header_size_kib": _whole(1, 96),
        "memory_limit_mib": _whole(128, 1 << 20),
        "cpu_limit_percent": _whole(1, 99),
        "mirrors": _Table(named=_MIRROR, names=_NAME),
        "trusted_proxies": _networks,
        "proxy_protocol": _flag,
    }
)
_BUS = _Table({"sync_always": _flag, "servers": _servers})
_STORE = r"(Cluster)?SecretStore/[a-z0-9]([-.a-z0-9]{0,61}[a-z0-9])?"
_IMAGE = r"[a-z0-9]+([._:/@-]+[A-Za-z0-9]+)*"
_CONTAINERS = _Table(
    {
        "base": _matching(_IMAGE, "the name of an image, like python:3.11-slim"),
        "repository": _matching(_IMAGE, "the beginning of images' names, like registry.example/shop"),
        "network": _network,
        "secret_store": _matching(_STORE, "SecretStore/NAME or ClusterSecretStore/NAME"),
    }
)
_TELEMETRY = _Table({"otlp_endpoint": _COLLECTOR, "sampling": _number(0, 1)})
_USER = _Table({"password": _text, "scopes": _scopes})
_CLIENT = _Table({"secret": _text, "scopes": _scopes})
_PROVIDER = _Table(
    {
        "issuer": _located(rf"{_AUTHORITY}(/[^\s?#]*)?", "a URL, letter for letter as the tokens have it"),
        "audience": _text,
        "jwks_url": _located(rf"{_AUTHORITY}(/[^\s?#]*)?(\?[^\s#]*)?", "a URL"),
        "jwks_file": _text,
        "scope_claim": _matching(
            r"[A-Za-z0-9_:-]+(\.[A-Za-z0-9_:-]+)*", "the name of a claim, or a path like realm_access.roles"
        ),
        "grants": _Table(named=_scopes),
        "fetch_every_s": _whole(1, _DAY_S),
    }
)
_AUTH = _Table(
    {
        "access_token_lifetime_s": _whole(1, _DAY_S),
        "refresh_token_lifetime_s": _whole(1, 3650 * _DAY_S),
        "rotate_keys_every_s": _whole(1, 3650 * _DAY_S),
        "database": _one_of("sqlite", "postgresql"),
        "database_url": _secret,
        "default_scopes": _scopes,
        "users": _Table(named=_USER),
        "clients": _Table(named=_CLIENT),
        "providers": _Table(named=_PROVIDER, names=_NAME),
    }
)
_CANARY = _Table(
    {"folder": _text, "weight": _whole(0, 100), "replicas": _whole(1, MOST_REPLICAS), "python": _text},
)
_SERVICE = _Table(
    {
        **_FAILURES,
        "kind": _one_of("service", "client", "simulator"),
        "prefix": _PREFIX,
        "owner": _text,
        "replicas": _whole(0, MOST_REPLICAS),
        "concurrency": _whole(1, 4096),
        "python": _text,
        "command": _texts,
        "contract": _text,
        "database_url": _secret,
        "settings": _Table(named=_setting),
        "canary": _CANARY,
        "outbound": _flag,
    }
)
_OVERLAY = _Table(
    {
        "gateway": _GATEWAY,
        "auth": _AUTH,
        "bus": _BUS,
        "telemetry": _TELEMETRY,
        "containers": _CONTAINERS,
        "services": _Table(named=_SERVICE, names=_NAME),
    }
)
_ROOT = _Table(
    {
        "format": _whole(1, 1),
        "name": _matching(r"[a-z][a-z0-9-]{0,39}", "lower-case letters, digits and -, beginning with a letter"),
        **_OVERLAY.keys,
        "environments": _Table(named=lambda _value: ""),
    }
)


@dataclass(frozen=True, slots=True)
class _Reader:
    path: Path
    positions: Positions

    def check_format(self, document: Mapping[str, Any]) -> None:
        if "format" not in document:
            raise SystemMistake("`format` is missing", where=f"{self.path}:1", hint="write `format = 1` in the first line")
        if document["format"] != 1:
            raise self.mistake(("format",), f"format {document['format']!r} is unknown", "this atoll reads `format = 1`")
        if "name" not in document:
            raise SystemMistake("`name` is missing", where=f"{self.path}:1", hint='write `name = "shop"` after `format = 1`')

    def check_table(self, value: Any, table: _Table, at: tuple[str, ...]) -> None:
        if not isinstance(value, dict):
            raise self.mistake(at, f"`{'.'.join(at)}` must be a table, not {_shown(value)}", f"write [{'.'.join(at)}]")
        for key, item in value.items():
            rule = table.keys.get(key, table.named)
            if rule is None:
                raise self.unknown((*at, key), table)
            if table.named is not None and (fault := table.names(key)):
                raise self.mistake((*at, key), f"a name {fault}", "rename it")
            if isinstance(rule, _Table):
                self.check_table(item, rule, (*at, key))
            elif fault := rule(item):
                raise self.mistake((*at, key), f"`{key}` {fault}")

    def unknown(self, at: tuple[str, ...], table: _Table) -> SystemMistake:
        place = f"[{'.'.join(at[:-1])}]" if at[:-1] else "the top of the manifest"
        return self.mistake(at, f"unknown key `{at[-1]}` in {place}", f"valid keys: {', '.join(sorted(table.keys))}")

    def mistake(self, at: tuple[str, ...], detail: str, hint: str = "") -> SystemMistake:
        return SystemMistake(detail, where=self.where(at), hint=hint)

    def where(self, at: tuple[str, ...]) -> str:
        """file:line of a key, or of the innermost table around it that stands in the text."""
        while at and at not in self.positions:
            at = at[:-1]
        return f"{self.path}:{self.positions.get(at, 1)}"

    def system(self, document: Mapping[str, Any], environment: str) -> System:
        environments = document.get("environments", {})
        overlay = self.overlay(environments, document, environment)
        services = {
            name: {**table, **overlay.get("services", {}).get(name, {})} for name, table in document.get("services", {}).items()
        }
        gateway = self.gateway(document.get("gateway", {}), overlay.get("gateway", {}))
        system = System(
            name=document["name"],
            folder=self.path.parent,
            gateway=gateway,
            auth=self.auth({**document.get("auth", {}), **overlay.get("auth", {})}),
            services=tuple(self.service(name, table, gateway.failures) for name, table in services.items()),
            bus=BusSpec(**{**document.get("bus", {}), **overlay.get("bus", {})}),
            telemetry=TelemetrySpec(**{**document.get("telemetry", {}), **overlay.get("telemetry", {})}),
            containers=ContainersSpec(**{**document.get("containers", {}), **overlay.get("containers", {})}),
            environment=environment,
            environments=tuple(environments),
        )
        self.check_whole(system)
        return system

    def gateway(self, table: Mapping[str, Any], overlay: Mapping[str, Any]) -> GatewaySpec:
        both = {**table, **overlay}
        if "tls" in both:
            both["tls"] = self.tls({**table.get("tls", {}), **overlay.get("tls", {})}, both)
        if "cors" in both:
            both["cors"] = _cors(both["cors"])
        both["mirrors"] = tuple(self.mirror(name, one) for name, one in both.get("mirrors", {}).items())
        both["trusted_proxies"] = tuple(both.get("trusted_proxies", ()))
        self.check_proxies(both)
        failures = _failures(both, USUAL)
        return GatewaySpec(**{key: value for key, value in both.items() if key not in _FAILURES}, failures=failures)

    def check_proxies(self, gateway: Mapping[str, Any]) -> None:
        if not gateway.get("proxy_protocol"):
            return
        at = ("gateway", "proxy_protocol")
        if not gateway["trusted_proxies"]:
            hint = 'trusted_proxies = ["10.0.0.0/8"]: the addresses that connections come from'
            raise self.mistake(at, "`proxy_protocol` stands without `trusted_proxies`: whoever connects could be anybody", hint)
        if gateway.get("tls") and gateway["tls"].http3:
            raise self.mistake(at, "HTTP/3 has no PROXY protocol", "leave out `tls.http3`, or use X-Forwarded-For")

    def tls(self, table: Mapping[str, Any], gateway: Mapping[str, Any]) -> TlsSpec:
        at = ("gateway", "tls")
        for one, other in (("certificate", "key"), ("key", "certificate")):
            if one in table and other not in table:
                raise self.mistake((*at, one), f"`{one}` stands without `{other}`", f'{other} = "tls/{other}.pem"')
        if gateway.get("public_url", "https:").startswith("http:"):
            hint = "write https:// in it, or leave it out; the issuer of tokens follows it"
            raise self.mistake(("gateway", "public_url"), "`public_url` begins with http://, but the gateway speaks TLS", hint)
        if table.get("redirect_port") == gateway.get("port", _PORT):
            hint = "clients of plain HTTP come to a port of their own: 80, or 8081 on a developer's machine"
            raise self.mistake((*at, "redirect_port"), "`redirect_port` is the gateway's own port", hint)
        folder = self.path.parent
        files = {name: folder / table[name] for name in ("certificate", "key") if name in table}
        return TlsSpec(**{**table, **files, "where": self.where(at)})

    def auth(self, table: Mapping[str, Any]) -> AuthSpec:
        spec = _auth(table, self.path.parent)
        issuers: dict[str, str] = {}
        for name, provider in spec.options.get("providers", {}).items():
            at = ("auth", "providers", name)
            for key in ("issuer", "audience"):
                if key not in provider:
                    raise self.mistake(at, f"the provider {name} has no `{key}`", f"its tokens' `{key[:3]}`, as they have it")
            if "jwks_url" in provider and "jwks_file" in provider:
                raise self.mistake((*at, "jwks_file"), "a provider has either `jwks_url` or `jwks_file`", "remove one of them")
            if not _trustworthy(provider["issuer"]) or not _trustworthy(provider.get("jwks_url", "https:")):
                raise self.mistake(at, f"the keys of {name} would be fetched without TLS", "use https:// URLs")
            if (other := issuers.setdefault(provider["issuer"], name)) != name:
                detail = f"{name} and {other} are the same issuer, so nobody could say whose rules hold for its tokens"
                raise self.mistake((*at, "issuer"), detail, "remove one of them")
        return spec

    def overlay(self, environments: Mapping[str, Any], document: Mapping[str, Any], chosen: str) -> Mapping[str, Any]:
        for name, table in environments.items():
            for service in table.get("services", {}):
                if service not in document.get("services", {}):
                    at = ("environments", name, "services", service)
                    raise self.mistake(at, f"there is no service {service!r} to change", f"declare [services.{service}] first")
        if chosen and chosen not in environments:
            known = ", ".join(environments) or "none"
            raise self.mistake(("environments",), f"there is no environment {chosen!r}", f"environments here: {known}")
        return dict(environments.get(chosen, {}))

    def mirror(self, name: str, table: Mapping[str, Any]) -> MirrorSpec:
        at = ("gateway", "mirrors", name)
        for key, meaning in (("from", "whose answers clients get"), ("to", "which service is asked the same")):
            if key not in table:
                raise self.mistake(at, f"the mirror {name} does not say {meaning}", f'write {key} = "NAME"')
        return MirrorSpec(
            name,
            primary=table["from"],
            second=table["to"],
            share=table.get("share", 0.05),
            **{key: tuple(table.get(key, ())) for key in ("paths", "unsafe", "ignore")},
        )

    def service(self, name: str, table: Mapping[str, Any], failures: FailureDetection) -> ServiceSpec:
        folder = self.path.parent
        at = ("services", name)
        self.check_service(name, table, at)
        url = table.get("database_url")
        return ServiceSpec(
            name=name,
            folder=folder / "services" / name,
            kind=table.get("kind", "service"),
            prefix=table.get("prefix", f"/{name}"),
            owner=table.get("owner", ""),
            replicas=table.get("replicas", 1),
            concurrency=table.get("concurrency"),
            python=folder / table["python"] if "python" in table else None,
            command=tuple(table.get("command", ())),
            contract=folder / table["contract"] if "contract" in table else None,
            database_url=Secret(url["secret"]) if url else None,
            settings={key: _value(value) for key, value in table.get("settings", {}).items()},
            where=self.where(at),
            canary=_canary(folder, table["canary"]) if "canary" in table else None,
            failures=_failures(table, failures),
            outbound=table.get("outbound", False),
        )

    def check_service(self, name: str, table: Mapping[str, Any], at: tuple[str, ...]) -> None:
        if name in RESERVED:
            raise self.mistake(at, f"{name!r} is a name that atoll uses itself", "choose another name for the service")
        if "command" in table and "python" in table:
            raise self.mistake((*at, "python"), "a service has either `command` or `python`", "remove one of them")
        if "canary" in table:
            self.check_canary(name, table, (*at, "canary"))
        simulator = table.get("kind") == "simulator"
        if "command" in table and "contract" not in table and not simulator:
            hint = f'write the contract by hand and name it: contract = "contracts/{name}.json"'
            raise self.mistake((*at, "command"), f"{name} has a `command`, so nobody can derive its contract", hint)
        if "contract" in table and "command" not in table:
            hint = "remove `contract`, or say with `command` how the service is started"
            raise self.mistake((*at, "contract"), f"the contract of {name} is derived from its code", hint)
        for key in ("concurrency", *_FAILURES):
            if simulator and key in table:
                raise self.mistake((*at, key), f"{name} is a simulator: nothing reaches it through the gateway")
        if simulator and "command" not in table:
            raise self.mistake(
                at, f"{name} is a simulator and needs a `command`", 'command = ["python", "simulator.py", "{port}"]'
            )
        if "command" not in table and (not name.isidentifier() or keyword.iskeyword(name)):
            raise self.mistake(at, f"{name!r} can't be the name of a Python package", "use _ instead of -")

    def check_canary(self, name: str, table: Mapping[str, Any], at: tuple[str, ...]) -> None:
        if "command" in table or table.get("kind", "service") != "service":
            raise self.mistake(at, f"{name} can't have a canary: that is another version of a Python service", "remove it")
        if "folder" not in table["canary"]:
            raise self.mistake(at, "a canary needs a `folder`", f'folder = "services/{name}-next"')

    def check_whole(self, system: System) -> None:
        names = {spec.name for spec in system.services}
        if system.gateway.fallback and system.gateway.fallback not in names:
            hint = f"services here: {', '.join(sorted(names)) or 'none'}"
            raise self.mistake(("gateway", "fallback"), f"there is no service {system.gateway.fallback!r}", hint)
        self.check_roles(system)
        self.check_cors(system.gateway.cors)
        self.check_mirrors(system)
        self.check_prefixes([spec for spec in system.services if spec.kind != "simulator" and spec.name not in system.seconds])

    def check_roles(self, system: System) -> None:
        """What stands in one table, and means a service of another."""
        for spec in system.services:
            if spec.kind == "simulator" and spec.name == system.gateway.fallback:
                detail = f"{spec.name} is a simulator: nothing reaches it through the gateway"
                raise self.mistake(("gateway", "fallback"), detail, "name a service, or leave `fallback` out")
            if spec.canary and f"{spec.name}-canary" in {other.name for other in system.services}:
                detail = f"{spec.name}-canary is what the canaries of {spec.name} are called"
                raise self.mistake(("services", f"{spec.name}-canary"), detail, "choose another name for the service")
        for name, provider in system.auth.options.get("providers", {}).items():
            if provider["issuer"] == system.issuer:
                detail = f"the provider {name} has the issuer of this system's own tokens"
                raise self.mistake(("auth", "providers", name, "issuer"), detail, "other issuers only stand here")

    def check_mirrors(self, system: System) -> None:
        for number, mirror in enumerate(system.gateway.mirrors):
            self.check_ends(system, mirror)
            self.check_paths(system, mirror)
            for other in system.gateway.mirrors[:number]:
                if other.primary == mirror.primary and _overlap(other, mirror):
                    detail = f"the mirrors {other.name} and {mirror.name} are both of {mirror.primary} and share paths"
                    raise self.mistake(("gateway", "mirrors", mirror.name), detail, "give each one `paths` of its own")

    def check_ends(self, system: System, mirror: MirrorSpec) -> None:
        routed = {spec.name for spec in system.services if spec.kind != "simulator"}
        for key, name in (("from", mirror.primary), ("to", mirror.second)):
            if name not in routed:
                hint = f"services here: {', '.join(sorted(routed)) or 'none'}"
                raise self.mistake(("gateway", "mirrors", mirror.name, key), f"there is no service {name!r} to mirror", hint)
        at = ("gateway", "mirrors", mirror.name, "to")
        if mirror.second in {system.gateway.fallback, *(other.primary for other in system.gateway.mirrors)}:
            hint = "`to` is asked by mirrors alone; declare the second version as a service of its own"
            raise self.mistake(at, f"clients get answers of {mirror.second}, so it can't be who is asked a second time", hint)

    def check_paths(self, system: System, mirror: MirrorSpec) -> None:
        """Where clients get the answers of another, there is nothing to compare."""
        routed = [spec for spec in system.services if spec.kind != "simulator" and spec.name not in system.seconds]
        named = {"paths": mirror.paths, "unsafe": tuple(one.partition(" ")[2] for one in mirror.unsafe)}
        for key, path in ((key, path) for key, paths in named.items() for path in paths):
            owner = max((one for one in routed if _below(path, one.prefix)), key=lambda one: len(one.prefix), default=None)
            name = owner.name if owner else system.gateway.fallback
            if name != mirror.primary:
                detail = f"{path} is not answered by {mirror.primary} but by {name or 'nobody'}"
                hint = f"name paths of {mirror.primary}"
                raise self.mistake(("gateway", "mirrors", mirror.name, key), detail, hint)

    def check_cors(self, cors: CorsSpec | None) -> None:
        if cors is None:
            return
        if not cors.origins:
            hint = 'origins = ["https://shop.example"]'
            raise self.mistake(("gateway", "cors"), "[gateway.cors] allows no origin anything", hint)
        if cors.credentials and "*" in cors.origins:
            detail = "every page of the internet could act with the cookies of whoever looks at it"
            raise self.mistake(("gateway", "cors", "origins"), detail, "name the origins, or leave `credentials` out")

    def check_prefixes(self, routed: Sequence[ServiceSpec]) -> None:
        owners: dict[str, str] = {"/auth": "auth"}
        for spec in routed:
            at = ("services", spec.name, "prefix")
            for own in GATEWAY_PATHS:
                if spec.prefix == own or spec.prefix.startswith(f"{own}/"):
                    detail = f"{spec.name} can't have the prefix {spec.prefix}: {own} is the gateway's own"
                    raise self.mistake(at, detail, "give it another prefix")
            if (other := owners.setdefault(spec.prefix, spec.name)) != spec.name:
                whose = other if other == "auth" else f"{other} already ({self.where(('services', other))})"
                detail = f"{spec.name} can't have the prefix {spec.prefix}: it belongs to {whose}"
                raise self.mistake(at, detail, "give one of them another prefix")


def _cors(table: Mapping[str, Any]) -> CorsSpec:
    found: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return CorsSpec(**found)


def _failures(table: Mapping[str, Any], usual: FailureDetection) -> FailureDetection:
    """What `table` says of failures, key by key over what is `usual`."""
    said = {key: table[key] for key in _FAILURES if key in table}
    groups = {key: replace(getattr(usual, key), **value) for key, value in said.items() if isinstance(value, Mapping)}
    return replace(usual, **{**said, **groups})


def _below(path: str, prefix: str) -> bool:
    return prefix == "/" or path == prefix or path.startswith(f"{prefix}/")


def _overlap(one: MirrorSpec, other: MirrorSpec) -> bool:
    pairs = [(mine, theirs) for mine in one.paths or ("/",) for theirs in other.paths or ("/",)]
    return any(_below(mine, theirs) or _below(theirs, mine) for mine, theirs in pairs)


def _canary(folder: Path, table: Mapping[str, Any]) -> CanarySpec:
    return CanarySpec(
        folder=folder / table["folder"],
        weight=table.get("weight", 0),
        replicas=table.get("replicas", 1),
        python=folder / table["python"] if "python" in table else None,
    )


def _trustworthy(url: str) -> bool:
    """Whoever can change what is fetched there issues tokens that open this system. On this machine nobody else can."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in _OWN_NAMES


def _auth(table: Mapping[str, Any], folder: Path) -> AuthSpec:
    url = table.get("database_url")
    own = {"access_token_lifetime_s", "database", "database_url"}
    return AuthSpec(
        access_token_lifetime_s=table.get("access_token_lifetime_s", 300),
        database=table.get("database", "sqlite"),
        database_url=Secret(url["secret"]) if url else None,
        options={key: _placed(key, value, folder) for key, value in table.items() if key not in own},
    )


def _placed(key: str, value: Any, folder: Path) -> Any:
    """Files beside the manifest, as auth finds them from its own folder."""
    if key != "providers":
        return value
    return {
        name: {**one, "jwks_file": str(folder / one["jwks_file"])} if "jwks_file" in one else one for name, one in value.items()
    }


def _value(value: Any) -> Any:
    return Secret(value["secret"]) if isinstance(value, dict) else value
