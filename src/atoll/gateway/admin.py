"""What Envoy says it has taken over, asked at its admin port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from atoll.gateway.ir import Endpoint
from atoll.gateway.xds import jwt, listener, metrics, proof, revocations, routes
from atoll.gateway.xds.folders import PROOF, SECRETS
from atoll.gateway.xds.typed import Json

__all__ = ["Admin", "Clients", "Seen"]

_SCOPES = {
    "cds": "cluster_manager.cds",
    "lds": "listener_manager.lds",
    "rds": f"http.{listener.STAT_PREFIX}.rds.{routes.NAME}",
    PROOF: f"http.{proof.NAME}.rds.{proof.NAME}",
    "ecds": f"extension_config_discovery.http_filter.{jwt.NAME}",
    "revocations": f"extension_config_discovery.http_filter.{revocations.NAME}",
    **{kind: f"sds.{kind}" for kind in SECRETS},
}
_WARMING = ("cluster_manager.warming_clusters", "listener_manager.total_listeners_warming")
_QUESTION = "/stats?format=json&filter=(version_text|warming_clusters|listeners_warming|update_rejected|update_failure)$"
_POLL_S = 0.003
# An Envoy that is gone refuses at once. One that takes over hundreds of services answers when it has done that.
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One look. `versions` are those in use, `refused` counts what was rejected since Envoy's start, both by type.

    `warming` clusters and listeners are not in use yet: their predecessors are.
    """

    versions: Mapping[str, str]
    refused: Mapping[str, int]
    warming: int


@dataclass(frozen=True, slots=True)
class Clients:
    """How many connections stand, and how many requests have not been answered whole."""

    connections: int
    requests: int


class Admin:
    """The admin port at `endpoint`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    async def look(self) -> Seen | None:
        """None when Envoy does not answer."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return _seen(await self._ask(_QUESTION))
        except (OSError, TimeoutError):
            return None

    async def looks(self, for_s: float) -> AsyncIterator[Seen | None]:
        """One after the other, for so long and at least one."""
        clock = asyncio.get_running_loop().time
        asked, end = clock(), clock() + for_s
        yield await self.look()
        while clock() <= end:
            # The same thread answers and takes over: with hundreds of services an answer is work too.
            await asyncio.sleep(max(_POLL_S, clock() - asked))
            asked = clock()
            yield await self.look()

    async def health(self) -> Mapping[tuple[str, str], str] | None:
        """What is wrong with every endpoint or `healthy`, by cluster and address. None when Envoy does not answer."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return _health(await self._ask("/clusters?format=json"))
        except (OSError, TimeoutError):
            return None

    async def dump(self) -> Json | None:
        """All that it uses (`/config_dump`). None when Envoy does not answer."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return dict(msgspec.json.decode(await self._ask("/config_dump")))
        except (OSError, TimeoutError):
            return None

    async def uptime_s(self) -> float | None:
        """How long it has been running, in whole seconds. None when it does not answer."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                told = msgspec.json.decode(await self._ask("/server_info"))
        except (OSError, TimeoutError):
            return None
        return float(told["uptime_current_epoch"].removesuffix("s"))

    async def clients(self) -> Clients:
        """Who is there; nobody when Envoy does not answer."""
        scope = f"http.{listener.STAT_PREFIX}.downstream_"
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await self._ask(f"/stats?format=json&filter=^{scope}(cx|rq)_active$")
        except (OSError, TimeoutError):
            return Clients(0, 0)
        found = {one["name"]: int(one["value"]) for one in msgspec.json.decode(answer)["stats"] if "name" in one}
        return Clients(found.get(f"{scope}cx_active", 0), found.get(f"{scope}rq_active", 0))

    async def metrics(self) -> bytes | None:
        """Those that somebody looks at, as Prometheus reads them. None when Envoy does not answer."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._ask(f"/stats/prometheus?filter={quote(metrics.LOOKED_AT, safe='')}")
        except (OSError, TimeoutError):
            return None

    async def _ask(self, path: str) -> bytes:
        reader, writer = await asyncio.open_connection(self.endpoint.host, self.endpoint.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            return _unchunked(body) if b"chunked" in head.lower() else body
        finally:
            writer.close()


def _unchunked(body: bytes) -> bytes:
    found, at = [], 0
    while at < len(body):
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        found.append(body[end + 2 : end + 2 + size])
        at = end + size + 4
    return b"".join(found)


def _health(body: bytes) -> dict[tuple[str, str], str]:
    """Envoy's flags, like `failed_active_health_check`; an endpoint without any is healthy."""
    found = {}
    for cluster in msgspec.json.decode(body).get("cluster_statuses", ()):
        for host in cluster.get("host_statuses", ()):
            socket = host["address"].get("socket_address")
            if socket:
                flags = sorted(name for name, value in host.get("health_status", {}).items() if value is True)
                address = str(Endpoint(socket["address"], socket["port_value"]))
                found[cluster["name"], address] = ", ".join(flags) or "healthy"
    return found


def _seen(body: bytes) -> Seen:
    entries: list[dict[str, Any]] = msgspec.json.decode(body)["stats"]
    stats = {entry["name"]: entry.get("value", 0) for entry in entries if "name" in entry}
    return Seen(
        versions={kind: str(stats.get(f"{scope}.version_text", "")) for kind, scope in _SCOPES.items()},
        refused={
            kind: int(stats.get(f"{scope}.update_rejected", 0)) + int(stats.get(f"{scope}.update_failure", 0))
            for kind, scope in _SCOPES.items()
        },
        warming=sum(int(stats.get(name, 0)) for name in _WARMING),
    )
