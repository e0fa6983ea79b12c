"""What the gateway knows: system, contracts by digest, replicas, keys, ended sessions; from the bus or from its own disk.

Every function gives a new `Known` and changes nothing it was given. A value that can't be read raises, and the caller
keeps what it had. Absence is never news: only a deletion marker takes a key away (a wiped bucket holds none).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import ip_address
from typing import Any, TypeVar

import msgspec

from atoll.errors import Malformed, SystemMistake
from atoll.gateway.ir import Cors, Endpoint
from atoll.registry.replica import NOBODY_HEARD_S, Replica
from atoll.system.contract import Contract
from atoll.system.failures import USUAL, FailureDetection
from atoll.tokens.keys import KeySet
from atoll.tokens.providers import Providers
from atoll.tokens.revocations import Revocations

__all__ = ["GATEWAY", "STALE_S", "Known", "LeftOut", "MirrorEntry", "Replica", "ServiceEntry", "SystemEntry"]

# A replica whose last heartbeat is this much older than the newest one of all has gone without a word.
STALE_S = 30.0
# Gateways are in the registry under this name, which no service can have.
GATEWAY = "gateway"


_T = TypeVar("_T")


class ServiceEntry(msgspec.Struct, frozen=True):
    """One service in the document `system`. The first of `digests` is the newest contract; `concurrency` is how many requests
    may be in flight to it; `canary_percent` of the clients meet its canaries where these can answer; `failures` are what the
    manifest says of them.
    """

    kind: str = "service"
    prefix: str = ""
    digests: tuple[str, ...] = ()
    concurrency: int | None = None
    canary_percent: int = 0
    failures: FailureDetection = USUAL


class MirrorEntry(msgspec.Struct, frozen=True):
    """One mirror in the document `system`: as `[gateway.mirrors.NAME]` has it."""

    primary: str
    second: str
    paths: tuple[str, ...] = ()
    share: float = 0.0
    unsafe: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


class SystemEntry(msgspec.Struct, frozen=True):
    """The document `system` in the bucket `contracts`, written by provision. `fallback` names a service.

    `sampling` is the share of requests whose traces go to `otlp_endpoint`, "" for none. `rate_limit` is a client's over all
    operations, `address_rate_limit` an address's, whoever asks.
    """

    name: str
    public_url: str
    issuer: str
    audience: str
    services: dict[str, ServiceEntry] = {}
    fallback: str | None = None
    otlp_endpoint: str = ""
    sampling: float = 0.0
    compression: bool = False
    cors: Cors | None = None
    rate_limit: str | None = None
    address_rate_limit: str | None = None
    body_limit_bytes: int | None = None
    max_header_size_kib: int | None = None
    memory_limit_mib: int | None = None
    cpu_limit_percent: int | None = None
    mirrors: dict[str, MirrorEntry] = {}
    trusted_proxies: tuple[str, ...] = ()
    proxy_protocol: bool = False


class LeftOut(msgspec.Struct, frozen=True):
    """Why a contract has no routes, and the document of the one whose routes its service keeps instead, None for none."""

    reason: str
    instead: dict[str, Any] | None = None


@dataclass(frozen=True)
class Known:
    """All inputs of `translate`. `replicas` by registry key (`orders.orders-1`), `contracts` by `<service>.<digest>`, and so
    `left_out`: those that Envoy refuses.

    `listening_since` (epoch s) is since when replicas can be heard: the bus's last connect, or the end of a silence of all.
    `fresh` are the keys of replicas that are new beside others.
    """

    system: SystemEntry
    contracts: Mapping[str, Contract] = field(default_factory=dict)
    replicas: Mapping[str, Replica] = field(default_factory=dict)
    keys: KeySet = field(default_factory=KeySet)
    revocations: Revocations = field(default_factory=Revocations)
    providers: Providers = field(default_factory=Providers)
    listening_since: float = 0.0
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    fresh: frozenset[str] = frozenset()

    def with_keys(self, body: bytes) -> Known:
        """After a message on `keys.set`. An older set than the known one changes nothing. Raises Malformed."""
        return replace(self, keys=self.keys.update(KeySet.parse(body)))

    def with_revocations(self, body: bytes) -> Known:
        """After a message on `keys.revoked.<shard>`. An older list than the known one changes nothing. Raises Malformed."""
        return replace(self, revocations=self.revocations.received(body))

    def with_providers(self, body: bytes) -> Known:
        """After a message on `keys.providers`. Older ones than the known change nothing. Raises Malformed."""
        return replace(self, providers=self.providers.update(Providers.parse(body)))

    def with_contract(self, key: str, body: bytes) -> Known:
        """After a change in the bucket `contracts`: `system` or `<service>.<digest>`. Raises Malformed, SystemMistake."""
        if key == "system":
            return replace(self, system=_decode(body, SystemEntry, key))
        contract = Contract.parse(_decode(body, dict[str, Any], key), where=f"contracts bucket, {key}")
        forgotten = {key} if self.contracts.get(key) != contract else set()
        return replace(self, contracts={**self.contracts, key: contract}, left_out=_without(self.left_out, forgotten))

    def without_contract(self, key: str) -> Known:
        """After a deletion in the bucket `contracts`. The document `system` is never taken away."""
        return replace(self, contracts=_without(self.contracts, {key}), left_out=_without(self.left_out, {key}))

    def leaving_out(self, contracts: Mapping[str, LeftOut]) -> Known:
        """Without the routes of these contracts too, where they are known."""
        found = {key: one for key, one in contracts.items() if key in self.contracts}
        return replace(self, left_out={**self.left_out, **found}) if found else self

    @cached_property
    def usable(self) -> Mapping[str, Contract]:
        """The contracts as they are routed. A replica of one that is left out is taken to offer what its service offered
        before: leaving it without requests would take the service down with its contract.
        """
        return {**self.contracts, **{key: _instead(self.contracts[key], one) for key, one in self.left_out.items()}}

    def with_replica(self, key: str, body: bytes) -> Known:
        """After a replica announced itself. Raises Malformed, also for an entry that speaks for another service."""
        entry = _decode(body, Replica, key)
        if entry.key != key:
            raise Malformed(f"registry key {key} holds an entry of {entry.key}")
        try:
            ip_address(Endpoint.parse(entry.address).host)
        except ValueError as error:
            raise Malformed(f"registry key {key}: {error}", hint="a replica announces IP address and port") from None
        since = entry.beat if entry.beat - self._newest_beat > NOBODY_HEARD_S else 0.0
        return replace(self, replicas={**self.replicas, key: entry}, listening_since=max(since, self.listening_since))

    def without_replica(self, key: str) -> Known:
        """After a replica left the registry."""
        return replace(self, replicas=_without(self.replicas, {key}))

    @cached_property
    def present(self) -> tuple[Replica, ...]:
        """The replicas that are there. Silence counts only while others are heard: age is against the newest heartbeat."""
        newest = self._newest_beat
        heard = [(max(entry.beat, self.listening_since), entry) for _, entry in sorted(self.replicas.items())]
        return tuple(entry for beat, entry in heard if newest - beat <= STALE_S)

    @cached_property
    def _newest_beat(self) -> float:
        return max((entry.beat for entry in self.replicas.values()), default=0.0)

    @property
    def gateways(self) -> int:
        """How many gateways there are. At least one: whoever asks."""
        return max(1, sum(one.service == GATEWAY for one in self.present))

    @cached_property
    def present_by_service(self) -> Mapping[str, tuple[Replica, ...]]:
        """The same, for each service that has any."""
        found: dict[str, list[Replica]] = {}
        for entry in self.present:
            found.setdefault(entry.service, []).append(entry)
        return {service: tuple(entries) for service, entries in found.items()}

    @cached_property
    def listed(self) -> frozenset[str]:
        """The keys of the contracts that count: those that the system lists, and those of running replicas."""
        found = {f"{name}.{digest}" for name, entry in self.system.services.items() for digest in entry.digests}
        return frozenset((found | {f"{one.service}.{one.digest}" for one in self.present}) & self.contracts.keys())

    @property
    def view(self) -> tuple[Any, ...]:
        """Equal for two that give the same gateway: heartbeats alone are no change."""
        replicas = tuple((one.service, one.address, one.digest, one.tls, one.canary) for one in self.present)
        return (
            self.system,
            tuple(sorted(self.contracts)),
            replicas,
            self.fresh,
            self.keys,
            self.revocations.sessions,
            self.providers.providers,
        )

    def serialize(self) -> bytes:
        """For `inputs.json`: what a restarted controller goes on with until the bus has answered."""
        return msgspec.json.encode(
            {
                "system": self.system,
                "contracts": {key: one.document for key, one in self.contracts.items()},
                "replicas": self.replicas,
                "listening_since": self.listening_since,
                "keys": msgspec.Raw(self.keys.serialize()),
                "revocations": msgspec.Raw(self.revocations.serialize()),
                "providers": self.providers,
                "left_out": self.left_out,
                "fresh": sorted(self.fresh),
            },
            order="deterministic",
        )

    @classmethod
    def parse(cls, body: bytes) -> Known:
        """The inverse of `serialize`, without contracts that can't be read any more. Raises Malformed."""
        saved = _decode(body, _Saved, "inputs.json")
        return cls(
            system=saved.system,
            contracts=dict(_readable(saved.contracts)),
            replicas=saved.replicas,
            listening_since=saved.listening_since,
            keys=KeySet.parse(bytes(saved.keys)),
            revocations=Revocations.parse(bytes(saved.revocations)),
            providers=saved.providers,
            fresh=frozenset(saved.fresh),
        ).leaving_out(saved.left_out)


class _Saved(msgspec.Struct):
    system: SystemEntry
    contracts: dict[str, dict[str, Any]]
    replicas: dict[str, Replica]
    keys: msgspec.Raw
    revocations: msgspec.Raw = msgspec.Raw(b"[]")
    providers: Providers = Providers()
    listening_since: float = 0.0
    left_out: dict[str, LeftOut] = {}
    fresh: list[str] = []


def _instead(contract: Contract, left_out: LeftOut) -> Contract:
    """With the same digest, by which replicas name it."""
    if left_out.instead is None:
        return msgspec.structs.replace(contract, operations=())
    return msgspec.structs.replace(Contract.parse(left_out.instead), digest=contract.digest)


def _readable(documents: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Contract]]:
    """An older version may have taken what this one does not."""
    for key, document in documents.items():
        with suppress(SystemMistake):
            yield key, Contract.parse(document, where=key)


def _without(entries: Mapping[str, _T], keys: Collection[str]) -> dict[str, _T]:
    return {key: one for key, one in entries.items() if key not in keys}


def _decode(body: bytes, type_: Any, what: str) -> Any:
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.MsgspecError as error:
        raise Malformed(f"{what} can't be read: {error}") from error
