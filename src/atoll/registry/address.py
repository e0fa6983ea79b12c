"""Where others reach a process that listens on every address of its machine, container or pod."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from ipaddress import ip_address
from typing import Any

from atoll.bus.endpoint import Endpoint

__all__ = ["reachable_at"]

logger = logging.getLogger("atoll.registry")

_RETRY_S = 0.5


async def reachable_at(listen: str, bus_url: str) -> str:
    """`listen`, unless that means every address: then the one from which the bus is reached, since the gateway is reached
    from there too. Waits until the bus has an address: where names come from the container host, it has none before it runs.
    """
    host, _, port = listen.rpartition(":")
    if not _is_any(host):
        return listen
    told = False
    while True:
        try:
            return f"{await asyncio.to_thread(_own_address, bus_url)}:{port}"
        except OSError as error:
            if not told:
                logger.warning("not announced yet: the bus has no address (%s)", error)
            told = True
            await asyncio.sleep(_RETRY_S)


def _is_any(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def _own_address(bus_url: str) -> str:
    """As the kernel would send from it. A datagram socket that is connected sends nothing."""
    family, kind, protocol, _, address = _first_address(bus_url)
    with socket.socket(family, kind, protocol) as asking:
        asking.connect(address)
        own = str(asking.getsockname()[0])
    return f"[{own}]" if family == socket.AF_INET6 else own


def _first_address(bus_url: str) -> tuple[int, int, int, str, Any]:
    """Of the first server that has one: one that does not run may have none."""
    servers = Endpoint.parse(bus_url).servers
    for server in servers[:-1]:
        with contextlib.suppress(OSError):
            return socket.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)[0]
    return socket.getaddrinfo(servers[-1].host, servers[-1].port, type=socket.SOCK_DGRAM)[0]
