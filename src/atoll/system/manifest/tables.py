"""Which keys each table of `atoll.toml` may have, and what each may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atoll.errors import SystemMistake
from atoll.system.manifest.positions import Places
from atoll.system.manifest.values import (
    Check,
    each,
    flag,
    located,
    matching,
    network,
    networks,
    number,
    one_of,
    rate,
    rate_per_second,
    scopes,
    secret,
    servers,
    setting,
    shown,
    text,
    texts,
    whole,
)

__all__ = [
    "AUTH",
    "BUS",
    "COLLECTOR",
    "CONTAINERS",
    "FAILURES",
    "GATEWAY",
    "MOST_REPLICAS",
    "OVERLAY",
    "ROOT",
    "SERVICE",
    "TELEMETRY",
    "Table",
    "check",
]

MOST_REPLICAS = 100


@dataclass(frozen=True, slots=True)
class Table:
    """The keys a table may have. `named`: any key is allowed and holds a table (or a value) of this one shape."""

    keys: Mapping[str, Check | Table] = field(default_factory=dict)
    named: Check | Table | None = None
    names: Check = text


# No dot segments: requests for them never arrive, because a path is normalised before it is matched.
_SEGMENTS = r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+"
_PREFIX = matching(rf"/|{_SEGMENTS}", "a path like /orders, or /")
# No user before the host: `http://localhost:1@evil` is a URL of evil.
_AUTHORITY = r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
_URL = located(rf"{_AUTHORITY}({_SEGMENTS})?", "a URL like https://shop.example, without a slash at its end")
COLLECTOR = matching(
    r"http://([A-Za-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?", "a URL like http://127.0.0.1:4318, without TLS and path"
)
_NAME = matching(r"[a-z][a-z0-9_-]{0,39}", "at most 40 lower-case letters, digits, - and _, beginning with a letter")
_DAY_S = 86_400
_MIRROR = Table(
    {
        "from": _NAME,
        "to": _NAME,
        "paths": each(_SEGMENTS, 'paths, like ["/reviews"]'),
        "share": number(0, 1),
        "unsafe": each(r"(POST|PUT|PATCH|DELETE) /\S*", 'operations, like ["POST /reviews"]'),
        "ignore": each(r"header:[!#$%&'*+.^_`|~0-9A-Za-z-]+|body:(/.*)?", 'rules, like ["header:etag", "body:/items/*/id"]'),
    }
)
_ORIGIN = r"[a-z][a-z0-9+.-]*://(\*\.)?[a-z0-9.-]+(:[0-9]+)?"
_HEADER_NAME = r"[a-z0-9-]+"
_CORS = Table(
    {
        "origins": each(rf"\*|{_ORIGIN}", "origins, like https://shop.example, https://*.shop.example or *"),
        "credentials": flag,
        "max_age_s": whole(0, _DAY_S),
        "headers": each(_HEADER_NAME, "header names in lower case"),
        "exposed": each(_HEADER_NAME, "header names in lower case"),
    }
)
_YEAR_S = 365 * _DAY_S
_TLS = Table(
    {
        "certificate": text,
        "key": text,
        "redirect_port": whole(1, 65_535),
        "hsts_s": whole(0, 2 * _YEAR_S),
        "http3": flag,
    }
)
# Of a service, and of the gateway for all services that say nothing else.
FAILURES: Mapping[str, Check | Table] = {
    "health_check": Table(
        {
            "interval_s": number(0.1, 300),
            "timeout_s": number(0.1, 60),
            "unhealthy_threshold": whole(1, 100),
            "healthy_threshold": whole(1, 100),
        }
    ),
    "outlier_ejection": Table(
        {
            "consecutive_failures": whole(0, 1000),
            "consecutive_5xx": whole(0, 1000),
            "ejection_s": number(0.1, 3600),
            "max_ejection_percent": whole(0, 100),
        }
    ),
    "retries": Table(
        {
            "count": whole(0, 100),
            "budget_percent": number(0, 100),
            "min_concurrent": whole(0, 10_000),
            "try_timeout_s": number(0.01, 3600),
        }
    ),
    "slow_start_s": number(0, 600),
    "panic_threshold_percent": whole(0, 100),
    "max_connections": whole(1, 65_535),
}
GATEWAY = Table(
    {
        **FAILURES,
        "port": whole(1, 65_535),
        "public_url": _URL,
        "fallback": _NAME,
        "compression": flag,
        "cors": _CORS,
        "rate_limit": rate,
        "address_rate_limit": rate_per_second,
        "body_limit_bytes": whole(1024, 1 << 31),
        "tls": _TLS,
        "max_header_size_kib": whole(1, 96),
        "memory_limit_mib": whole(128, 1 << 20),
        "cpu_limit_percent": whole(1, 99),
        "mirrors": Table(named=_MIRROR, names=_NAME),
        "trusted_proxies": networks,
        "proxy_protocol": flag,
    }
)
BUS = Table({"sync_always": flag, "servers": servers})
_STORE = r"(Cluster)?SecretStore/[a-z0-9]([-.a-z0-9]{0,61}[a-z0-9])?"
_IMAGE = r"[a-z0-9]+([._:/@-]+[A-Za-z0-9]+)*"
CONTAINERS = Table(
    {
        "base": matching(_IMAGE, "the name of an image, like python:3.11-slim"),
        "repository": matching(_IMAGE, "the beginning of images' names, like registry.example/shop"),
        "network": network,
        "secret_store": matching(_STORE, "SecretStore/NAME or ClusterSecretStore/NAME"),
    }
)
TELEMETRY = Table({"otlp_endpoint": COLLECTOR, "sampling": number(0, 1)})
_USER = Table({"password": text, "scopes": scopes})
_CLIENT = Table({"secret": text, "scopes": scopes})
_PROVIDER = Table(
    {
        "issuer": located(rf"{_AUTHORITY}(/[^\s?#]*)?", "a URL, letter for letter as the tokens have it"),
        "audience": text,
        "jwks_url": located(rf"{_AUTHORITY}(/[^\s?#]*)?(\?[^\s#]*)?", "a URL"),
        "jwks_file": text,
        "scope_claim": matching(
            r"[A-Za-z0-9_:-]+(\.[A-Za-z0-9_:-]+)*", "the name of a claim, or a path like realm_access.roles"
        ),
        "grants": Table(named=scopes),
        "fetch_every_s": whole(1, _DAY_S),
    }
)
AUTH = Table(
    {
        "access_token_lifetime_s": whole(1, _DAY_S),
        "refresh_token_lifetime_s": whole(1, 3650 * _DAY_S),
        "rotate_keys_every_s": whole(1, 3650 * _DAY_S),
        "database": one_of("sqlite", "postgresql"),
        "database_url": secret,
        "default_scopes": scopes,
        "users": Table(named=_USER),
        "clients": Table(named=_CLIENT),
        "providers": Table(named=_PROVIDER, names=_NAME),
    }
)
_CANARY = Table(
    {"folder": text, "weight": whole(0, 100), "replicas": whole(1, MOST_REPLICAS), "python": text},
)
SERVICE = Table(
    {
        **FAILURES,
        "kind": one_of("service", "client", "simulator"),
        "prefix": _PREFIX,
        "owner": text,
        "replicas": whole(0, MOST_REPLICAS),
        "concurrency": whole(1, 4096),
        "python": text,
        "command": texts,
        "contract": text,
        "database_url": secret,
        "settings": Table(named=setting),
        "canary": _CANARY,
        "outbound": flag,
    }
)
OVERLAY = Table(
    {
        "gateway": GATEWAY,
        "auth": AUTH,
        "bus": BUS,
        "telemetry": TELEMETRY,
        "containers": CONTAINERS,
        "services": Table(named=SERVICE, names=_NAME),
    }
)
ROOT = Table(
    {
        "format": whole(1, 1),
        "name": matching(r"[a-z][a-z0-9-]{0,39}", "at most 40 lower-case letters, digits and -, beginning with a letter"),
        **OVERLAY.keys,
        "environments": Table(named=lambda _value: ""),
    }
)


def check(value: Any, table: Table, at: tuple[str, ...], places: Places) -> None:
    """Raises SystemMistake for a key that there is not, and for a value that can't be one."""
    if not isinstance(value, dict):
        raise places.mistake(at, f"`{'.'.join(at)}` must be a table, not {shown(value)}", f"write [{'.'.join(at)}]")
    for key, item in value.items():
        rule = table.keys.get(key, table.named)
        if rule is None:
            raise _unknown((*at, key), table, places)
        if table.named is not None and (fault := table.names(key)):
            raise places.mistake((*at, key), f"a name {fault}", "rename it")
        if isinstance(rule, Table):
            check(item, rule, (*at, key), places)
        elif fault := rule(item):
            raise places.mistake((*at, key), f"`{key}` {fault}")


def _unknown(at: tuple[str, ...], table: Table, places: Places) -> SystemMistake:
    place = f"[{'.'.join(at[:-1])}]" if at[:-1] else "the top of the manifest"
    return places.mistake(at, f"unknown key `{at[-1]}` in {place}", f"valid keys: {', '.join(sorted(table.keys))}")
