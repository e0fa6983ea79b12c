"""Which operations get a route, from which contracts: every contract that is listed or still running, newest last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from msgspec.structs import replace

from atoll.gateway.kept import Kept, Same
from atoll.gateway.known import Known, ServiceEntry, SystemEntry
from atoll.gateway.paths import Path
from atoll.system.contract import Contract, Operation
from atoll.system.manifest import GATEWAY_PATHS

__all__ = ["Offer", "deployed", "offers", "order", "routed"]

_KINDS = ("service", "client")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


_Owners = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Offer:
    """One operation of a service, as its newest contract has it, and the digests of all contracts that offer it. It may be sent
    again only if every contract that still runs promises that.

    The same object for as long as nothing of its service changes, and equal to no other.
    """

    service: str
    operation: Operation
    contract: Contract
    digests: tuple[str, ...]

    @cached_property
    def path(self) -> Path:
        return Path(self.operation.path)

    @cached_property
    def name(self) -> str:
        return f"{self.service}.{self.operation.id}"


def offers(known: Known, faults: list[str]) -> tuple[Offer, ...]:
    """Every operation that gets a route, most specific path first."""
    services = routed(known.system)
    owners = tuple((entry.prefix, name) for name, entry in services.items())
    found: list[Offer] = []
    _of_service.begin()
    for name, entry in services.items():
        contracts = tuple(Same(one) for one in _contracts(known, name, entry, faults))
        allowed, refused = _of_service(_Declared(name, entry.prefix, contracts, frozenset(_running(known, name))), owners)
        found += allowed
        faults += refused
    return tuple(sorted(found, key=lambda offer: (offer.path.precedence, order(offer.operation.method))))


@dataclass(frozen=True, slots=True)
class _Declared:
    """What one service offers, and where. `contracts`, the newest last; `running`, the digests of those that replicas have."""

    service: str
    prefix: str
    contracts: tuple[Same[Contract], ...]
    running: frozenset[str]


@Kept
def _of_service(declared: _Declared, owners: _Owners) -> tuple[tuple[Offer, ...], tuple[str, ...]]:
    """The offers that get a route, and why others do not."""
    faults: list[str] = []
    by_prefix = dict(owners)
    found = tuple(one for one in _offers_of(declared) if _allowed(one, declared.prefix, by_prefix, faults))
    return found, tuple(faults)


def routed(system: SystemEntry) -> dict[str, ServiceEntry]:
    """The services that have routes, by name, each with the prefix that it really has. Whom a mirror asks has none."""
    seconds = {mirror.second for mirror in system.mirrors.values()}
    return {name: entry for name, entry in deployed(system).items() if name not in seconds}


def deployed(system: SystemEntry) -> dict[str, ServiceEntry]:
    """The services that have replicas, likewise."""
    return {
        name: replace(entry, prefix=entry.prefix or f"/{name}")
        for name, entry in sorted(system.services.items())
        if entry.kind in _KINDS
    }


def _contracts(known: Known, name: str, entry: ServiceEntry, faults: list[str]) -> list[Contract]:
    """The contracts that count, newest last. Running replicas may have one that the system no longer lists: older still."""
    running = sorted(_running(known, name) - set(entry.digests))
    found = []
    for digest in (*running, *reversed(entry.digests)):
        contract, left_out = known.usable.get(f"{name}.{digest}"), known.left_out.get(f"{name}.{digest}")
        if contract is None:
            faults.append(f"{name}: the contract {digest} is not in the bucket, or can't be read")
        else:
            found.append(contract)
        if left_out:
            stays = "the routes before it stay" if left_out.instead else "it has no routes"
            faults.append(f"{name}: the contract {digest} is left out, {stays}: Envoy refuses it: {left_out.reason}")
    return found


def _running(known: Known, name: str) -> set[str]:
    """The digests of the contracts that its replicas have."""
    return {one.digest for one in known.present_by_service.get(name, ())} - {""}


def _offers_of(declared: _Declared) -> Iterator[Offer]:
    found: dict[tuple[str, str], list[tuple[Operation, Contract]]] = {}
    for one in declared.contracts:
        for operation in one.it.operations:
            found.setdefault((Path(operation.path).shape, operation.method), []).append((operation, one.it))
    for same in found.values():
        newest, contract = same[-1]
        counting = [newest, *(operation for operation, earlier in same[:-1] if earlier.digest in declared.running)]
        yield Offer(declared.service, _promised_by_all(newest, counting), contract, tuple(one.digest for _, one in same))


def _promised_by_all(operation: Operation, counting: list[Operation]) -> Operation:
    """The second try of a request may meet any of the replicas."""
    return replace(
        operation,
        idempotent=all(one.idempotent or one.repeatable for one in counting),
        repeatable=all(one.repeatable for one in counting),
    )


def _allowed(offer: Offer, prefix: str, owners: Mapping[str, str], faults: list[str]) -> bool:
    """Whether its service, which has `prefix`, may have its path; `owners` has all services by prefix."""
    what = f"{offer.name}: {offer.operation.method} {offer.path}"
    if any(offer.path.under(own) for own in GATEWAY_PATHS):
        faults.append(f"{what} has no route: the path is the gateway's own or a health check's")
    elif not offer.path.under(prefix):
        faults.append(f"{what} has no route: its paths must be under {prefix}")
    elif owner := _longer_owner(offer.path, prefix, owners):
        faults.append(f"{what} has no route: the path belongs to {owner}")
    else:
        return True
    return False


def _longer_owner(path: Path, prefix: str, owners: Mapping[str, str]) -> str | None:
    """Whoever has the longest prefix that begins the path, if that is longer than `prefix`."""
    begin = path.template
    while len(begin) > len(prefix):
        if begin in owners:
            return owners[begin]
        begin = begin.rpartition("/")[0]
    return None


def order(method: str) -> tuple[int, str]:
    """The usual order of methods, unusual ones last."""
    return (_METHODS.index(method) if method in _METHODS else len(_METHODS), method)
