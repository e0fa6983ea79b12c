"""The bus as an administrator makes it: accounts and permissions as text, streams, durables and buckets by request.

Every service has a NATS account of its own with its stream inside. What one consumes of another goes through an export to
exactly one account: its own durable's MSG.NEXT, RESET and ACK, nothing else. Within one account allow lists would not do:
a reply subject is not checked against them, so an acknowledgement could be aimed at another's stream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from atoll.bus import nkeys
from atoll.bus.jetstream import information
from atoll.bus.ports import MAX_PAYLOAD_BYTES
from atoll.system.plan import AUTH, BusPlan, BusService

__all__ = [
    "BusServer",
    "Cluster",
    "Entrance",
    "Variable",
    "account",
    "accounts",
    "admin",
    "administers",
    "configuration",
    "users",
]

PLATFORM, SYSTEM = "PLATFORM", "SYS"
PLATFORM_ADMIN, GATEWAY, SYSTEM_USER = "platform-admin", "gateway", "sys"
REGISTRY, CONTRACTS, KEYS = "KV_registry", "KV_contracts", "keys"

_DIRECT = "$JS.API.DIRECT.GET"


class Variable(str):
    """What the server reads from its environment at its start, so that one text serves several."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """How the bus is reached: `host:port` of every server. `authorities` is the file of those who vouch for their TLS."""

    servers: tuple[str, ...]
    tls: bool = False
    authorities: str = ""

    def url(self, user: str, password: str) -> str:
        """What that user connects with."""
        who = f"{'tls' if self.tls else 'nats'}://{quote(user, safe='')}:{quote(password, safe='')}@"
        return ",".join(who + server for server in self.servers)

    def only(self, server: str) -> Entrance:
        """One of them."""
        return replace(self, servers=(server,))


@dataclass(frozen=True, slots=True)
class Cluster:
    """Several servers that are one bus: where this one listens for the others, and where all of them do (`host:port`).

    `client_advertise` and `route_advertise` are where clients and servers are told to find it, if not at its addresses.
    """

    listen: str
    routes: tuple[str, ...]
    client_advertise: str = ""
    route_advertise: str = ""


@dataclass(frozen=True, slots=True)
class BusServer:
    """Where the server listens and stores. `sync_always`: an acknowledged event survives power loss, at four times the cost.

    `tls` is the folder with its certificate (`tls.crt`, `tls.key`) and its authority's (`ca.crt`). `health_port` answers who
    asks whether it has caught up with the others.
    """

    name: str
    port: int
    store: Path
    host: str = "127.0.0.1"
    sync_always: bool = False
    cluster: Cluster | None = None
    tls: Path | None = None
    health_port: int = 0

    @property
    def entrance(self) -> Entrance:
        """For whoever is on the same machine."""
        return Entrance((f"{self.host}:{self.port}",))

    def url(self, user: str, password: str) -> str:
        """What that user connects with."""
        return self.entrance.url(user, password)


def users(plan: BusPlan) -> tuple[str, ...]:
    """Everybody who needs a password."""
    services = [user for service in plan.services for user in (service.name, admin(service.name))]
    return (*services, GATEWAY, PLATFORM_ADMIN, SYSTEM_USER)


def admin(service: str) -> str:
    """The user that only provision is."""
    return f"{service}-admin"


def administers(user: str) -> bool:
    """Whether only provision is this user."""
    return user.endswith("-admin") or user == SYSTEM_USER


def account(service: str) -> str:
    """The account a service is alone in."""
    return service.upper()


def configuration(plan: BusPlan, server: BusServer, passwords: Mapping[str, str], retired: Collection[str] = ()) -> str:
    """The text of nats.conf: the same for the same input.

    `retired` are accounts of former services. They stay, with their streams and without users: an account that is removed and
    comes back while the server runs is another one to it, and its durables answer nobody.
    """
    top = {
        "listen": f"{server.host}:{server.port}",
        "server_name": server.name,
        "max_payload": MAX_PAYLOAD_BYTES,
        "jetstream": {"store_dir": str(server.store)} | ({"sync_interval": "always"} if server.sync_always else {}),
        **_among_others(server),
        "system_account": SYSTEM,
        "accounts": {
            **{name: {"jetstream": "enabled"} for name in sorted(retired)},
            **{account(service.name): _service_account(plan, service, passwords) for service in plan.services},
            PLATFORM: _platform_account(plan, passwords),
            SYSTEM: {"users": [_user(SYSTEM_USER, passwords)]},
        },
    }
    return "# Written by atoll from the contracts; whatever is changed here is overwritten.\n" + "\n".join(_block(top)) + "\n"


def _among_others(server: BusServer) -> dict[str, Any]:
    """Servers of one bus show each other their certificates; clients show who they are in another way."""
    own = {"tls": _certificate(server.tls)} if server.tls else {}
    found: dict[str, Any] = {**own, **({"http_port": server.health_port} if server.health_port else {})}
    if cluster := server.cluster:
        found |= {"client_advertise": cluster.client_advertise} if cluster.client_advertise else {}
        found["cluster"] = {
            "name": "atoll",
            "listen": cluster.listen,
            **({"advertise": cluster.route_advertise} if cluster.route_advertise else {}),
            "routes": [f"{'tls' if server.tls else 'nats'}://{route}" for route in cluster.routes],
            **_among(server.tls),
        }
    return found


def _among(folder: Path | None) -> dict[str, Any]:
    return {"tls": {**_certificate(folder), "ca_file": str(folder / "ca.crt"), "timeout": 5}} if folder else {}


def _certificate(folder: Path) -> dict[str, Any]:
    return {"cert_file": str(folder / "tls.crt"), "key_file": str(folder / "tls.key")}


def accounts(text: str) -> set[str]:
    """The accounts of services in a configuration written here."""
    return set(re.findall(r"^  ([A-Z][A-Z0-9_-]*) \{$", text, re.MULTILINE)) - {PLATFORM, SYSTEM}


def _service_account(plan: BusPlan, service: BusService, passwords: Mapping[str, str]) -> dict[str, Any]:
    allowed = {"publish": _may_publish(service, plan), "subscribe": _may_subscribe(service, plan)}
    return {
        "jetstream": "enabled",
        "users": [_user(service.name, passwords, allowed), _user(admin(service.name), passwords)],
        "exports": list(_exports(plan, service)),
        "imports": list(_imports(plan, service)),
        "mappings": {json.dumps(information(stream)): _stream_info(stream) for stream in _own_streams(service)},
    }


def _platform_account(plan: BusPlan, passwords: Mapping[str, str]) -> dict[str, Any]:
    allowed = {
        # Beside reading, a gateway says that it is there, so that several can share what a client may ask.
        "publish": [
            *(f"{_DIRECT}.{stream}" for stream in (REGISTRY, CONTRACTS, KEYS)),
            *(f"{information(stream)}" for stream in (REGISTRY, CONTRACTS, KEYS)),
            *(_stream_info(stream) for stream in (REGISTRY, CONTRACTS)),
            *_own_registry_keys(GATEWAY),
        ],
        "subscribe": [f"_INBOX_{GATEWAY}.>", "$KV.registry.>", "$KV.contracts.>", "keys.>"],
    }
    exports = [
        {"service": subject, "accounts": [account(service.name)]}
        for service in plan.services
        for subject in _own_registry_keys(service.name)
    ]
    return {
        "jetstream": "enabled",
        "users": [_user(GATEWAY, passwords, allowed), _user(PLATFORM_ADMIN, passwords)],
        "exports": exports,
        "imports": _keys_imports() if _has_auth(plan) else [],
        # How far a stream is, only its leader knows: a snapshot of a server that is behind is asked for again.
        "mappings": {json.dumps(information(stream)): _stream_info(stream) for stream in (REGISTRY, CONTRACTS)},
    }


def _exports(plan: BusPlan, service: BusService) -> Iterator[dict[str, Any]]:
    """What `service`'s account lets others use, each consumer its own durable only."""
    others = [consumer for consumer in plan.consumers[service.name] if consumer != service.name]
    for consumer in others:
        only = {"accounts": [account(consumer)]}
        yield {"service": _next(service.name, consumer), "response_type": "stream", **only}
        yield {"service": _reset(service.name, consumer), **only}
        yield {"service": _acknowledge(service.name, consumer), **only}
    if others:
        yield {"service": _stream_info(service.name), "accounts": [account(consumer) for consumer in others]}
    if service.name == AUTH:
        everybody = [*(account(other.name) for other in plan.services if other.name != AUTH), PLATFORM]
        yield {"stream": "keys.>", "accounts": everybody}
        yield {"service": f"{_DIRECT}.{KEYS}", "response_type": "stream", "accounts": everybody}
        yield {"service": _stream_info(KEYS), "accounts": everybody}


def _imports(plan: BusPlan, service: BusService) -> Iterator[dict[str, Any]]:
    for source in service.sources:
        if source.stream != service.name:
            owner = account(source.stream)
            for subject in _durable(source.stream, service.name):
                yield {"service": {"account": owner, "subject": subject}}
            yield {"service": {"account": owner, "subject": _stream_info(source.stream)}, "to": information(source.stream)}
    for subject in _own_registry_keys(service.name):
        yield {"service": {"account": PLATFORM, "subject": subject}}
    if service.name != AUTH and _has_auth(plan):
        yield from _keys_imports()


def _keys_imports() -> list[dict[str, Any]]:
    owner = account(AUTH)
    return [
        {"stream": {"account": owner, "subject": "keys.>"}},
        {"service": {"account": owner, "subject": f"{_DIRECT}.{KEYS}"}},
        {"service": {"account": owner, "subject": _stream_info(KEYS)}, "to": information(KEYS)},
    ]


def _may_publish(service: BusService, plan: BusPlan) -> list[str]:
    allowed = [f"event.{service.name}.>", f"wake.{service.name}"]
    for source in service.sources:
        allowed += [*_durable(source.stream, service.name), information(source.stream)]
        if source.stream == service.name:
            allowed.append(_stream_info(service.name))  # the server checks what a mapping leads to, too
    allowed += _own_registry_keys(service.name)
    if service.name == AUTH:
        allowed += ["keys.>", _stream_info(KEYS)]
    if _has_auth(plan):
        allowed += [f"{_DIRECT}.{KEYS}", information(KEYS)]
    return allowed


def _may_subscribe(service: BusService, plan: BusPlan) -> list[str]:
    return [f"_INBOX_{service.name}.>", f"wake.{service.name}", *(["keys.>"] if _has_auth(plan) else [])]


def _own_streams(service: BusService) -> list[str]:
    return [service.name, KEYS] if service.name == AUTH else [service.name]


def _has_auth(plan: BusPlan) -> bool:
    return any(service.name == AUTH for service in plan.services)


def _durable(stream: str, consumer: str) -> list[str]:
    return [_next(stream, consumer), _reset(stream, consumer), _acknowledge(stream, consumer)]


def _next(stream: str, consumer: str) -> str:
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"


def _reset(stream: str, consumer: str) -> str:
    return f"$JS.API.CONSUMER.RESET.{stream}.{consumer}"


def _acknowledge(stream: str, consumer: str) -> str:
    return f"$JS.ACK.{stream}.{consumer}.>"


def _stream_info(stream: str) -> str:
    return f"$JS.API.STREAM.INFO.{stream}"


def _own_registry_keys(service: str) -> list[str]:
    """Write its own keys, and read them back: a replica must tell a lost acknowledgement from a successor."""
    return [f"$KV.registry.{service}.*", f"{_DIRECT}.{REGISTRY}.$KV.registry.{service}.*"]


def _user(name: str, passwords: Mapping[str, str], allowed: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    permissions = {"permissions": {verb: {"allow": subjects} for verb, subjects in allowed.items()}} if allowed else {}
    return {**_known_by(name, passwords[name]), **permissions}


def _known_by(name: str, password: str) -> dict[str, str]:
    """Of an nkey, the bus needs its public half only."""
    return {"nkey": nkeys.public(password)} if nkeys.is_seed(password) else {"user": name, "password": password}


def _block(entries: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """NATS configuration: `key: value` and `key { … }`; a map in a list stands on one line."""
    for key, value in entries.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key} {{"
            yield from _block(value, indent + "  ")
            yield f"{indent}}}"
        elif isinstance(value, list):
            yield f"{indent}{key}: ["
            yield from (f"{indent}  {_inline(item)}" for item in value)
            yield f"{indent}]"
        else:
            yield f"{indent}{key}: {_inline(value)}"


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key}: {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    if isinstance(value, Variable):
        return f"${value}"
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False)
