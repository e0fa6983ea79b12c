"""The servers of the bus in containers: under which names they are found, and what they are told. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from atoll.deploy.images import BUS
from atoll.deploy.plan import Plan
from atoll.provision import nats

__all__ = [
    "BUS_MEMORY_MIB",
    "BUS_PORT",
    "HEALTH_PORT",
    "OF_SEVERAL",
    "ROUTE_PORT",
    "BusHosts",
    "bus_configuration",
    "bus_variables",
    "compose_hosts",
    "server_variables",
]

BUS_PORT = 4222
ROUTE_PORT = 6222
HEALTH_PORT = 8222
OF_SEVERAL = 3
BUS_MEMORY_MIB = 512
"""What a server of the bus may have."""
_TLS = Path("/run/secrets")
_OWN_NAME, _OWN_ADDRESS = "ATOLL_BUS_SERVER", "ATOLL_BUS_ADVERTISE"


@dataclass(frozen=True, slots=True)
class BusHosts:
    """`clients` are the names under which clients find the bus, `each` is one of every server, `routes` are those under which
    servers find each other: none, where there is only one. With `health`, each answers who asks whether it has caught up.
    """

    clients: tuple[str, ...] = (BUS,)
    each: tuple[str, ...] = (BUS,)
    routes: tuple[str, ...] = ()
    health: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All that a certificate must be for."""
        return tuple(dict.fromkeys((*self.clients, *self.each, *self.routes)))

    def entrance(self, authorities: str = "") -> nats.Entrance:
        """For clients."""
        return nats.Entrance(tuple(f"{host}:{BUS_PORT}" for host in self.clients), tls=True, authorities=authorities)


def compose_hosts(plan: Plan) -> BusHosts:
    """Servers find each other in one network, whatever others they share: so whoever cuts that one cuts them off."""
    if plan.system.bus.servers != OF_SEVERAL:
        return BusHosts()
    names = tuple(f"{BUS}-{number}" for number in range(1, OF_SEVERAL + 1))
    return BusHosts(names, names, tuple(f"{name}.routes" for name in names))


def bus_configuration(plan: Plan, hosts: BusHosts, passwords: Mapping[str, str], retired: Collection[str] = ()) -> str:
    """The text of nats.conf, the same for every server: what differs stands in its environment."""
    server = nats.BusServer(
        name=nats.Variable(_OWN_NAME) if hosts.routes else plan.system.name,
        port=BUS_PORT,
        store=Path("/data"),
        host="0.0.0.0",
        sync_always=plan.system.bus.sync_always,
        cluster=_cluster(hosts) if hosts.routes else None,
        tls=_TLS,
        health_port=HEALTH_PORT if hosts.health else 0,
    )
    return nats.configuration(plan.bus, server, passwords, retired)


def _cluster(hosts: BusHosts) -> nats.Cluster:
    routes = tuple(f"{host}:{ROUTE_PORT}" for host in hosts.routes)
    return nats.Cluster(f"0.0.0.0:{ROUTE_PORT}", routes, client_advertise=nats.Variable(_OWN_ADDRESS))


def server_variables(name: str, host: str) -> dict[str, str]:
    """What one of several servers is told; `host` is where clients find it."""
    return {_OWN_NAME: name, _OWN_ADDRESS: f"{host}:{BUS_PORT}"}


def bus_variables(plan: Plan) -> dict[str, str]:
    """What each server is told. With another value it is started anew, which one that stores in another way must be: NATS
    refuses all of a configuration in which that has changed meanwhile.
    """
    # Go takes what it finds, and would be killed at its limit; near it, it collects more often.
    told = {"GOMEMLIMIT": f"{BUS_MEMORY_MIB * 9 // 10}MiB"}
    return {**told, "ATOLL_BUS_SYNC": "always"} if plan.system.bus.sync_always else told
