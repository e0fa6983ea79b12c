"""Where a gateway's container listens, and what it is told of TLS and mirrors. Pure; the same wherever containers run.

Clients outside arrive at the manifest's ports. With TLS, clients of the system itself arrive at a port of their own, over plain
HTTP: the certificate is for the public name, which is not the name that they find the gateway by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from atoll.errors import SystemMistake
from atoll.system.manifest import System

__all__ = [
    "CERTIFICATE",
    "INSIDE",
    "KEY",
    "METRICS_PORT",
    "TLS",
    "TLS_FOLDER",
    "Port",
    "check",
    "client_port",
    "inside_port",
    "ports",
    "told",
]

ADMIN_PORT, METRICS_PORT, MIRROR_PORT, INSIDE_PORT = 9901, 9902, 9903, 9904
TLS = "gateway-tls"
"""The secret with certificate and key. Its files are called as in a Secret of `kubernetes.io/tls`."""
CERTIFICATE, KEY = "tls.crt", "tls.key"
TLS_FOLDER = "/run/tls"
INSIDE = "gateway-inside"
"""The name under which clients of the system find the gateway, where that is another one."""


@dataclass(frozen=True, slots=True)
class Port:
    """One at which clients outside arrive."""

    name: str
    number: int
    protocol: str = "TCP"


def ports(system: System) -> tuple[Port, ...]:
    """The gateway's own first."""
    tls = system.gateway.tls
    found = [Port("https" if tls else "http", system.gateway.port)]
    if tls and tls.http3:
        found.append(Port("http3", system.gateway.port, "UDP"))
    if tls and tls.redirect_port:
        found.append(Port("redirect", tls.redirect_port))
    return tuple(found)


def inside_port(system: System) -> int | None:
    """Where clients of the system itself arrive, when that is not where all arrive: they come by no load balancer either."""
    return INSIDE_PORT if system.gateway.tls or system.gateway.proxy_protocol else None


def client_port(system: System) -> int:
    """Where clients of the system itself arrive."""
    return inside_port(system) or system.gateway.port


def told(system: System) -> dict[str, str]:
    """Of ports, certificate and mirrors, as environment variables; those that are empty mean nothing."""
    return {
        "ATOLL_GATEWAY_HOST": "0.0.0.0",
        "ATOLL_GATEWAY_PORT": str(system.gateway.port),
        "ATOLL_GATEWAY_INSIDE_PORT": str(inside_port(system) or ""),
        "ATOLL_ENVOY_ADMIN": f"127.0.0.1:{ADMIN_PORT}",
        **_tls(system),
        **(_MIRRORS if system.gateway.mirrors else {}),
    }


_MIRRORS = {"ATOLL_MIRROR_ADDRESS": f"127.0.0.1:{MIRROR_PORT}", "ATOLL_MIRROR_DIR": "/data/mirror"}


def _tls(system: System) -> dict[str, str]:
    if (tls := system.gateway.tls) is None:
        return {}
    return {
        "ATOLL_GATEWAY_CERTIFICATE": f"{TLS_FOLDER}/{CERTIFICATE}",
        "ATOLL_GATEWAY_KEY": f"{TLS_FOLDER}/{KEY}",
        "ATOLL_GATEWAY_HSTS_S": str(system.gateway.deployed_hsts_s),
        "ATOLL_GATEWAY_REDIRECT_PORT": str(tls.redirect_port or ""),
        "ATOLL_GATEWAY_QUIC": "1" if tls.http3 else "",
    }


def check(system: System) -> None:
    """Raises SystemMistake: a port of the manifest is one that the container needs itself, a name is one that is taken."""
    where = str(system.folder / "atoll.toml")
    for number in _doubled(system):
        hint = f"ports {ADMIN_PORT} to {INSIDE_PORT} are what is inside a gateway's container"
        raise SystemMistake(f"the gateway can't have the port {number} in containers", where=where, hint=hint)
    for spec in system.services:
        if spec.name.replace("_", "-") in (TLS, INSIDE):
            detail = f"{spec.name} is what something of the gateway is called in containers"
            raise SystemMistake(detail, where=spec.where, hint="choose another name for the service")


def _doubled(system: System) -> Iterator[int]:
    own = (ADMIN_PORT, METRICS_PORT, MIRROR_PORT, INSIDE_PORT)
    yield from (one.number for one in ports(system) if one.number in own)
