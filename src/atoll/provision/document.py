"""What the gateway is told of a system: the document `system` in the bucket `contracts`, still without digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from atoll.system.auth import auth_service
from atoll.system.manifest import MirrorSpec, ServiceSpec, System
from atoll.system.plan import AUTH

__all__ = ["system_document"]


def system_document(system: System, weights: Mapping[str, int] | None = None) -> dict[str, Any]:
    """What the gateway is told of the system, without digests. `weights` are those of canaries, by service."""
    routed = [auth_service(system), *(spec for spec in system.services if spec.kind != "simulator")]
    return {
        "name": system.name,
        "public_url": system.gateway.url,
        "issuer": system.issuer,
        "audience": system.name,
        "fallback": system.gateway.fallback,
        "otlp_endpoint": system.telemetry.otlp_endpoint,
        "sampling": system.telemetry.sampling,
        "compression": system.gateway.compression,
        "cors": None if system.gateway.cors is None else msgspec.to_builtins(system.gateway.cors),
        "rate_limit": system.gateway.rate_limit,
        "address_rate_limit": system.gateway.address_rate_limit,
        "body_limit_bytes": system.gateway.body_limit_bytes,
        "max_header_size_kib": system.gateway.max_header_size_kib,
        "memory_limit_mib": system.gateway.memory_limit_mib,
        "cpu_limit_percent": system.gateway.cpu_limit_percent,
        "trusted_proxies": system.gateway.trusted_proxies,
        "proxy_protocol": system.gateway.proxy_protocol,
        "mirrors": {mirror.name: _mirror(mirror) for mirror in system.gateway.mirrors},
        "services": {spec.name: _entry(spec, (weights or {}).get(spec.name, 0)) for spec in routed},
    }


def _entry(spec: ServiceSpec, canary_percent: int) -> dict[str, Any]:
    kind = "service" if spec.name == AUTH else spec.kind
    return {
        "kind": kind,
        "prefix": spec.prefix,
        "concurrency": spec.concurrency,
        "canary_percent": canary_percent,
        "failures": asdict(spec.failures),
    }


def _mirror(mirror: MirrorSpec) -> dict[str, Any]:
    return {name: value for name, value in asdict(mirror).items() if name != "name"}
