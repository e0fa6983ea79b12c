"""What each container is given as files below /run/secrets. Pure: passwords come from whoever keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from atoll.deploy.bus import BusHosts, bus_configuration
from atoll.deploy.entrance import CERTIFICATE, KEY, TLS
from atoll.deploy.images import BUS, GATEWAY, PROVISION
from atoll.deploy.plan import Part, Plan
from atoll.errors import SystemMistake
from atoll.provision import nats
from atoll.provision.database import PORTS
from atoll.system.plan import AUTH

__all__ = [
    "BUS_CONFIGURATION",
    "OF_BUS",
    "SETTLED_CONFIGURATION",
    "Keeper",
    "account_variables",
    "bus_file",
    "database_name",
    "given_names",
    "secret_files",
]

BUS_CONFIGURATION = f"{BUS}/nats.conf"
SETTLED_CONFIGURATION = f"{BUS}/settled.conf"
"""What nats.conf is to be when all replicas of former contracts have left."""
OF_BUS = "bus."
"""What the names of secrets begin with that belong to users of the bus."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """`password` gives the same one for a name for ever; `given` are the secrets that only an operator can know, by name;
    `certificates` are the files by which a bus of these names shows what it is, and by which others see that; `retired` are
    the bus accounts of former services; `host` gives the name under which a container is found, `bus` those of the bus.
    """

    password: Callable[[str], str]
    given: Mapping[str, str]
    certificates: Callable[[Sequence[str]], Mapping[str, str]]
    retired: Collection[str] = ()
    host: Callable[[str], str] = str
    bus: BusHosts = field(default_factory=BusHosts)


def given_names(plan: Plan) -> dict[str, str]:
    """The secrets that nobody can make up, and whose they are."""
    found: dict[str, str] = {}
    for part in plan.members:
        found |= dict.fromkeys((part.secrets or {}).values(), part.name)
        if part.database and part.database.external:
            found[part.database.external.name] = part.name
    return found | (dict.fromkeys((CERTIFICATE, KEY), GATEWAY) if plan.system.gateway.tls else {})


def secret_files(plan: Plan, keeper: Keeper) -> dict[str, str]:
    """`<container>/<file>` and its text. Raises SystemMistake that names what an operator has to give first."""
    whose = given_names(plan)
    if missing := [name for name in whose if name not in keeper.given]:
        lines = ", ".join(f"{name} (of {whose[name]})" for name in missing)
        raise SystemMistake(
            f"these secrets are missing: {lines}", hint="write each one into a file of that name in secrets/given/"
        )
    bus = _passwords(plan, keeper)
    entrance, certificates = keeper.bus.entrance(), keeper.certificates(keeper.bus.names)
    administrators = {user: password for user, password in bus.items() if nats.administers(user)}
    found = {
        BUS_CONFIGURATION: bus_file(plan, keeper, keeper.bus),
        **{f"{BUS}/{name}": text for name, text in certificates.items()},
        f"{GATEWAY}/bus_url": entrance.url(nats.GATEWAY, bus[nats.GATEWAY]),
        f"{PROVISION}/bus_users": json.dumps(administrators, indent=1, sort_keys=True),
        f"{AUTH}/auth_operator_secret": keeper.password("auth.operator"),
        **{f"{AUTH}/{name.lower()}": keeper.password(f"auth.{name}") for name in account_variables(plan)},
        **{f"{name}/bus_ca": certificates["ca.crt"] for name in (GATEWAY, PROVISION, *(part.name for part in plan.members))},
    }
    for part in plan.members:
        found[f"{part.name}/bus_url"] = entrance.url(part.name, bus[part.name])
        found |= {f"{part.name}/{key}": keeper.given[name] for key, name in (part.secrets or {}).items()}
        found |= _database(part, keeper)
    pair = (CERTIFICATE, KEY) if plan.system.gateway.tls else ()
    return found | {f"{TLS}/{file}": keeper.given[file] for file in pair}


def bus_file(plan: Plan, keeper: Keeper, hosts: BusHosts) -> str:
    """The text of nats.conf for these servers."""
    return bus_configuration(plan, hosts, _passwords(plan, keeper), keeper.retired)


def _passwords(plan: Plan, keeper: Keeper) -> dict[str, str]:
    return {user: keeper.password(f"{OF_BUS}{user}") for user in nats.users(plan.bus)}


def account_variables(plan: Plan) -> Iterator[str]:
    """Of the users and clients that exist from the first start; their passwords in the manifest are for one machine only."""
    options = plan.system.auth.options
    for kind, word in (("users", "PASSWORD"), ("clients", "SECRET")):
        for name in options.get(kind, {}):
            plain = "".join(one if one.isalnum() and one.isascii() else "_" for one in name)
            yield f"AUTH_{kind[:-1]}_{plain}_{word}".upper()


def database_name(part: Part) -> str:
    """What its container is called."""
    return f"{part.service}-database"


def _database(part: Part, keeper: Keeper) -> dict[str, str]:
    database = part.database
    if database is None or database.kind == "sqlite":
        return {}
    if database.external is not None:
        return {f"{part.name}/database_url": keeper.given[database.external.name]}
    own = database_name(part)
    password = keeper.password(f"{own}.{part.name}")
    found = {
        f"{part.name}/database_url": _url(part, password, keeper.host),
        f"{own}/database_password": password,
        f"{own}/database_admin_password": keeper.password(f"{own}.administrator"),
    }
    if database.kind == "mongodb":
        found[f"{own}/database_key"] = keeper.password(f"{own}.key")
    return found


def _url(part: Part, password: str, host: Callable[[str], str]) -> str:
    assert part.database is not None
    kind, name = part.database.kind, quote(part.name, safe="")
    # A set of one, reached by another name than the one it has for itself.
    tail = f"?directConnection=true&authSource={name}" if kind == "mongodb" else ""
    return f"{kind}://{name}:{quote(password, safe='')}@{host(database_name(part))}:{PORTS[kind]}/{name}{tail}"
