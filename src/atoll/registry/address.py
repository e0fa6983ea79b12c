"""Where others reach a process that listens on every address of its machine, container or pod."""

from __future__ import annotations

import asyncio
import logging
import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

__all__ = ["reachable_at"]

logger = logging.getLogger("atoll.registry")

_RETRY_S = 0.5
_BUS_PORT = 4222


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
    bus = urlsplit(bus_url)
    found = socket.getaddrinfo(bus.hostname, bus.port or _BUS_PORT, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as asking:
        asking.connect(address)
        own = str(asking.getsockname()[0])
    return f"[{own}]" if family == socket.AF_INET6 else own
