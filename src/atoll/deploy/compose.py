"""A Compose file, and what it mounts. Pure: `render(plan, told) -> {path: text}`.

Each part is in a cell of its own, with the gateway and the bus; its database is in a second network with nobody else.
docs/decisions/0013-container-hosts.md says why cells are numbered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from itertools import count, islice
from typing import Any

from atoll.deploy import entrance, observability, yaml
from atoll.deploy.bus import BUS_MEMORY_MIB, bus_variables, compose_hosts, server_variables
from atoll.deploy.environment import database_environment, environment, gateway_environment, provision_environment
from atoll.deploy.images import BUS, GATEWAY, PROVISION
from atoll.deploy.plan import Part, Plan
from atoll.deploy.provisioning import texts
from atoll.deploy.secrets import database_name
from atoll.errors import SystemMistake

__all__ = ["CELLS", "Told", "cells", "render"]

CELLS = 8
"""Cells come in eights: gateway and bus are in all of them, so that a service is added without their being made anew."""
_PREFIX = 27
_PLATFORM, _EDGE = -1, -2
_LOGS = {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}


@dataclass(frozen=True, slots=True)
class Told:
    """`images` are references by name; `cells` a number for each member; `address` is where the gateway is published."""

    images: Mapping[str, str]
    cells: Mapping[str, int]
    address: str = "127.0.0.1"


def cells(before: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """Everybody keeps a cell for as long as it is there; who is new takes the first free one."""
    wanted = list(names)
    kept = {name: before[name] for name in wanted if name in before}
    free = (number for number in count() if number not in kept.values())
    new = [name for name in wanted if name not in kept]
    return {**kept, **dict(zip(new, islice(free, len(new)), strict=True))}


def render(plan: Plan, told: Told) -> dict[str, str]:
    """All files but secrets. Raises SystemMistake: the network is too small."""
    document = {
        "services": {
            **_bus(plan, told),
            PROVISION: _provision(plan, told),
            GATEWAY: _gateway(plan, told),
            **{database_name(part): _database(part, told) for part in _with_database(plan)},
            **{part.name: _part(plan, part, told) for part in plan.parts},
        },
        "networks": _networks(plan, told),
        "volumes": {name: {} for name in _volumes(plan)},
    }
    return {
        "compose.yaml": _HEADER + yaml.text(_escaped(document)),
        ".env": f"COMPOSE_PROJECT_NAME={plan.system.name}\n",
        ".gitignore": "/secrets/\n",
        "cells.json": json.dumps(dict(sorted(told.cells.items())), indent=1) + "\n",
        **texts(plan),
        **observability.files(plan.system.name),
    }


_HEADER = "# Rendered by atoll; what is changed here is overwritten. Your own belongs into compose.override.yaml.\n"


def _with_database(plan: Plan) -> list[Part]:
    return [part for part in plan.members if part.database and part.database.served]


def _container(image: str, memory_mib: int, **own: Any) -> dict[str, Any]:
    """What holds for every container: no rights, nothing to write to but what is mounted, bounded."""
    return {
        "image": image,
        "restart": "unless-stopped",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp:size=64m,mode=1777"],
        "mem_limit": f"{memory_mib}m",
        "cpus": "1.0",
        "pids_limit": 256,
        "logging": _LOGS,
        **own,
    }


def _secrets(name: str) -> str:
    return f"./secrets/{name}:/run/secrets:ro"


def _bus(plan: Plan, told: Told) -> dict[str, Any]:
    """Its servers, by name. Several find each other in one network, under names that they have in no other."""
    hosts = compose_hosts(plan)
    if not hosts.routes:
        networks = [*_cell_names(told), "platform"]
        return {BUS: _bus_server(BUS, told, environment=bus_variables(plan), networks=networks)}
    cells: dict[str, Any] = {name: {} for name in _cell_names(told)}
    return {
        name: _bus_server(
            name,
            told,
            environment={**bus_variables(plan), **server_variables(name, name)},
            networks={**cells, "platform": {"aliases": [route]}},
        )
        for name, route in zip(hosts.each, hosts.routes, strict=True)
    }


def _bus_server(name: str, told: Told, **own: Any) -> dict[str, Any]:
    volumes = [f"./secrets/{BUS}:/etc/nats:ro", _secrets(BUS), f"{name}-data:/data"]
    return _container(told.images[BUS], BUS_MEMORY_MIB, stop_grace_period="20s", volumes=volumes, **own)


def _bus_is_there(plan: Plan) -> dict[str, Any]:
    """All of its servers: whatever starts now stores with each."""
    return {name: {"condition": "service_healthy"} for name in compose_hosts(plan).each}


def _provision(plan: Plan, told: Told) -> dict[str, Any]:
    return {
        **_container(told.images[PROVISION], 256),
        "restart": "no",
        "environment": provision_environment(compose_hosts(plan)),
        "volumes": [_secrets(PROVISION), "./provision:/etc/atoll:ro"],
        "networks": ["platform"],
        "depends_on": _bus_is_there(plan),
    }


def _gateway(plan: Plan, told: Told) -> dict[str, Any]:
    """Metrics are at its address in `edge` alone, where no service is."""
    metrics_at = str(_pool(plan)[_EDGE][-2])
    certificate = [f"./secrets/{entrance.TLS}:{entrance.TLS_FOLDER}:ro"] if plan.system.gateway.tls else []
    return _container(
        told.images[GATEWAY],
        plan.system.gateway.memory_limit_mib or 1024,
        stop_grace_period="30s",
        environment=gateway_environment(plan, metrics_at, GATEWAY),
        ports=[_published(told.address, port) for port in entrance.ports(plan.system)],
        volumes=[_secrets(GATEWAY), *certificate, "gateway-data:/data"],
        networks={**{cell: {} for cell in _cell_names(told)}, "edge": {"ipv4_address": metrics_at}},
        depends_on=_bus_is_there(plan),
    )


def _published(address: str, port: entrance.Port) -> str:
    return f"{address}:{port.number}:{port.number}" + ("/udp" if port.protocol == "UDP" else "")


def _found_as(name: str) -> str:
    """The gateway has one name here."""
    return GATEWAY if name == entrance.INSIDE else name


def _database(part: Part, told: Told) -> dict[str, Any]:
    assert part.database is not None
    name, kind = database_name(part), part.database.kind
    return _container(
        told.images[kind],
        1024 if kind == "mongodb" else 512,
        stop_grace_period="30s",
        environment=database_environment(part),
        volumes=[_secrets(name), f"{name}-data:/data"],
        networks=[_database_network(part)],
    )


def _part(plan: Plan, part: Part, told: Told) -> dict[str, Any]:
    if part.kind == "simulator":
        return _simulator(part, told)
    after: dict[str, Any] = {PROVISION: {"condition": "service_completed_successfully"}}
    networks = [_cell(told.cells[part.service]), *(_outside(name) for name in part.outside)]
    if part.spec.outbound:
        networks.append(_outbound(part))
    if part.database and part.database.served:
        after[database_name(part)] = {"condition": "service_healthy"}
        networks.append(_database_network(part))
    after |= {name: {"condition": "service_healthy"} for name in part.outside}
    scale = {"scale": part.replicas} if part.replicas != 1 else {}
    return _container(
        told.images[part.name],
        256,
        **scale,
        stop_grace_period="20s",
        environment=environment(plan, part, _found_as),
        volumes=[_secrets(part.service), f"{part.name}-data:/data"],
        networks=networks,
        depends_on=after,
    )


def _simulator(part: Part, told: Told) -> dict[str, Any]:
    variables = {name.upper(): str(value) for name, value in (part.values or {}).items()}
    return _container(
        told.images[part.name],
        256,
        **({"environment": variables} if variables else {}),
        stop_grace_period="5s",
        volumes=[f"{part.name}-data:/data"],
        networks=[_outside(part.name)],
    )


def _volumes(plan: Plan) -> list[str]:
    databases = [f"{database_name(part)}-data" for part in _with_database(plan)]
    of_bus = [f"{name}-data" for name in compose_hosts(plan).each]
    return [*of_bus, "gateway-data", *databases, *(f"{part.name}-data" for part in plan.parts)]


# networks


def _cell(number: int) -> str:
    return f"cell-{number:02}"


def _cell_names(told: Told) -> list[str]:
    most = max(told.cells.values(), default=0) + 1
    return [_cell(number) for number in range(-(-most // CELLS) * CELLS)]


def _database_network(part: Part) -> str:
    return database_name(part)


def _outbound(part: Part) -> str:
    return f"{part.service}-outbound"


def _outside(simulator: str) -> str:
    return f"outside-{simulator}"


def _networks(plan: Plan, told: Told) -> dict[str, Any]:
    """Cell n has the n-th three subnets: its own, its database's, its way out. Simulators have theirs from the end."""
    pool = _pool(plan)
    names = _cell_names(told)
    simulators = [part.name for part in plan.parts if part.kind == "simulator"]
    if 3 * len(names) + len(simulators) + 2 > len(pool):
        raise SystemMistake(
            f"[containers] network {plan.system.containers.network} is too small for {len(plan.members)} services",
            where=str(plan.system.folder / "atoll.toml"),
            hint=f"each takes three networks of /{_PREFIX}",
        )
    found = {name: _network(pool[3 * number]) for number, name in enumerate(names)}
    found |= {_database_network(part): _network(pool[3 * told.cells[part.name] + 1]) for part in _with_database(plan)}
    ways_out = [part for part in plan.members if part.spec.outbound]
    found |= {_outbound(part): _network(pool[3 * told.cells[part.name] + 2], internal=False) for part in ways_out}
    found |= {_outside(name): _network(pool[-3 - number]) for number, name in enumerate(simulators)}
    return {**found, "platform": _network(pool[_PLATFORM]), "edge": _network(pool[_EDGE], internal=False)}


def _pool(plan: Plan) -> list[IPv4Network]:
    return list(IPv4Network(plan.system.containers.network).subnets(new_prefix=_PREFIX))


def _network(subnet: IPv4Network, *, internal: bool = True) -> dict[str, Any]:
    return {**({"internal": True} if internal else {}), "ipam": {"config": [{"subnet": str(subnet)}]}}


def _escaped(value: Any) -> Any:
    """Compose takes `$` for a variable."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {key: _escaped(one) for key, one in value.items()}
    return [_escaped(one) for one in value] if isinstance(value, (list, tuple)) else value
