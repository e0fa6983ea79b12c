"""From what is known to what the gateway does. Pure: the same input gives the same gateway, on every machine.

Who gets a path: the service with the longest prefix that begins it, and within that the most specific template (text
beats a parameter, segment by segment). The method is looked at only then, so `DELETE /orders/search` is 405 when
`/orders/search` exists for GET, whatever `/orders/{id}` takes (OpenAPI 3.1 §4.8.8.1: concrete paths are matched first).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from itertools import groupby
from typing import TypedDict

from atoll.gateway.ir import (
    PUBLIC,
    ApiKeys,
    Border,
    Canary,
    Cluster,
    Document,
    Endpoint,
    Entry,
    Gateway,
    Issuer,
    Limits,
    Listener,
    MethodList,
    MethodRefusal,
    Overload,
    Proxies,
    Route,
    TokenRule,
    Tracing,
    Upstream,
)
from atoll.gateway.kept import Kept, Same
from atoll.gateway.known import GATEWAY, Known, SystemEntry
from atoll.gateway.offers import Offer, deployed, offers, order, routed
from atoll.gateway.openapi import merge
from atoll.gateway.page import documents
from atoll.gateway.paths import Path
from atoll.gateway.sampling import of_fallback, sampled, usable
from atoll.registry.replica import Replica, on_trial
from atoll.system.budgets import BUDGETS
from atoll.system.contract import BODY_LIMIT_BYTES, Operation
from atoll.system.failures import FailureDetection, Retries
from atoll.system.rates import Rate
from atoll.telemetry.collector import PORT as COLLECTOR_PORT

__all__ = ["translate"]

_SAFE = frozenset({"GET", "HEAD"})
_IDEMPOTENCY_KEY = "idempotency-key"
# Envoy takes it off every request that is no upgrade, so that it tells the two apart.
_UPGRADE = "upgrade"
_HEALTH = "/health"
_PORT = re.compile(r":\d+$")
# Larger bodies pass as they come: the gateway's memory is for everybody.
_KEPT_BYTES = 1 << 20


class _Manifested(TypedDict):
    concurrency: int | None
    failures: FailureDetection


def translate(known: Known, listener: Listener) -> Gateway:
    """The gateway for `known`. What can't be used is left out and told in `faults`; nothing raises."""
    faults: list[str] = []
    listener = _with_limits(listener, known.system)
    known = replace(known, replicas=_reachable(known.replicas, listener.upstream, faults))
    offered = offers(known, faults)
    mirrors = usable(known.system, listener, faults)
    clusters: dict[str, Cluster] = {name: _whole(known, name) for name in deployed(known.system)}
    routes: list[Route] = []
    serving: dict[tuple[str, tuple[str, ...]], tuple[Cluster, Cluster | None]] = {}
    _routes.begin()
    for offer in offered:
        # Operations of the same contracts have the same replicas.
        if (group := (offer.service, offer.digests)) not in serving:
            serving[group] = _cluster(known, offer), _canaries(known, offer)
        cluster, trial = serving[group]
        clusters |= {one.name: one for one in (cluster, trial) if one and one.name not in clusters}
        split = _split(known, cluster, trial)
        own = _routes(offer, cluster.name, cluster.failures.retries, listener.body_limit_bytes)
        routes += [replace(one, canary=split) for one in own] if split else own
    system = known.system
    return Gateway(
        listener=listener,
        issuer=Issuer(system.issuer, system.audience, known.keys),
        providers=known.providers.providers,
        api_keys=ApiKeys("auth", "/auth/token") if "auth" in clusters else None,
        routes=_with_borders(sampled(mirrors, _with_refusals(routes), faults), system),
        clusters=tuple(clusters[name] for name in sorted(clusters)),
        documents=_documents(system, offered, faults),
        limits=_limits(known, faults),
        overload=_overload(system),
        owned=_owned(system),
        ended_sessions=tuple(sorted(known.revocations.sessions)),
        fallback=system.fallback if system.fallback in clusters else None,
        fallback_sample=of_fallback(mirrors),
        mirrors=tuple(one.mirror for one in mirrors),
        tracing=_tracing(system, faults),
        compression=system.compression,
        cors=system.cors,
        faults=tuple(faults),
        public_url=system.public_url,
    )


def _reachable(replicas: Mapping[str, Replica], upstream: Upstream, faults: list[str]) -> Mapping[str, Replica]:
    """Without those that speak TLS when the gateway can't, or don't when they must: no replica can talk its way out of it."""
    found = {}
    for key, one in sorted(replicas.items()):
        if one.service != GATEWAY and (fault := _unreachable(one, upstream)):
            faults.append(f"the replica {one.replica} of {one.service} at {one.address} is left out: {fault}")
        else:
            found[key] = one
    return found


def _unreachable(one: Replica, upstream: Upstream) -> str:
    if one.tls and not upstream.certified:
        return "it speaks TLS, and this gateway has no certificate to show (ATOLL_GATEWAY_UPSTREAM_CERTIFICATE)"
    if one.tls or upstream.plain or ip_address(Endpoint.parse(one.address).host).is_loopback:
        return ""
    return "it is on another machine and does not speak TLS (ATOLL_TLS_CERTIFICATE of the service)"


def _documents(system: SystemEntry, offered: Sequence[Offer], faults: list[str]) -> tuple[Document, ...]:
    """A contract written by hand may describe its operations in ways that can't be shown: that costs the page, no route."""
    try:
        _api.begin()
        return _api(Same(system), tuple(offered))
    except Exception as error:
        faults.append(f"there is no API page: a contract's OpenAPI can't be read ({type(error).__name__}: {error})")
        return ()


@Kept
def _api(system: Same[SystemEntry], offered: tuple[Offer, ...]) -> tuple[Document, ...]:
    """Not anew for replicas and keys."""
    return documents(merge(system.it, offered))


def _tracing(system: SystemEntry, faults: list[str]) -> Tracing | None:
    if not system.otlp_endpoint:
        return None
    address = system.otlp_endpoint.removeprefix("http://").rstrip("/")
    try:
        collector = Endpoint.parse(address if _PORT.search(address) else f"{address}:{COLLECTOR_PORT}")
    except ValueError as error:
        faults.append(f"there are no traces: the collector {system.otlp_endpoint} can't be used ({error})")
        return None
    return Tracing(collector, min(1.0, max(0.0, system.sampling)))


def _with_limits(listener: Listener, system: SystemEntry) -> Listener:
    return replace(
        listener,
        body_limit_bytes=system.body_limit_bytes or listener.body_limit_bytes,
        max_header_size_kib=system.max_header_size_kib or listener.max_header_size_kib,
        proxies=Proxies(system.trusted_proxies, system.proxy_protocol),
    )


def _overload(system: SystemEntry) -> Overload:
    found = Overload(cpu_limit_percent=system.cpu_limit_percent)
    return replace(found, memory_limit_mib=system.memory_limit_mib) if system.memory_limit_mib else found


def _limits(known: Known, faults: list[str]) -> Limits:
    client, address = known.system.rate_limit, known.system.address_rate_limit
    return Limits(_rate(client, faults), _rate(address, faults), known.gateways)


def _rate(text: str | None, faults: list[str]) -> Rate | None:
    """The manifest was checked when it was read; whoever writes into the bucket by hand is told."""
    try:
        return Rate.parse(text) if text else None
    except ValueError as error:
        faults.append(f"system: a rate limit does not hold: {error}")
        return None


def _owned(system: SystemEntry) -> tuple[str, ...]:
    """What never falls back: the prefixes of all services but the fallback itself."""
    others = {entry.prefix for name, entry in routed(system).items() if name != system.fallback}
    return tuple(sorted({_HEALTH, *others} - {"/"}))


def _whole(known: Known, service: str) -> Cluster:
    endpoints = _endpoints(known, [one for one in known.present_by_service.get(service, ()) if not one.canary])
    newest = known.usable.get(f"{service}.{next(iter(known.system.services[service].digests), '')}")
    protocol = newest.protocol if newest else "http1"
    return Cluster(service, service, endpoints, protocol=protocol, **_manifested(known, service))


def _manifested(known: Known, service: str) -> _Manifested:
    """What the manifest says of all of a service's replicas."""
    return {"concurrency": _concurrency(known, service), "failures": known.system.services[service].failures}


def _concurrency(known: Known, service: str) -> int | None:
    """This gateway's share, at least one."""
    whole = known.system.services[service].concurrency
    return whole and max(1, whole // known.gateways)


def _cluster(known: Known, offer: Offer) -> Cluster:
    """The replicas whose contract offers it: all of the service, or a cluster of their own while contracts differ. What only
    canaries offer is theirs.
    """
    replicas = [one for one in known.present_by_service.get(offer.service, ()) if not one.canary]
    serving = [one for one in replicas if _serves(one, offer)]
    if not serving and (trial := _canaries(known, offer)):
        return trial
    if len(serving) == len(replicas):
        return replace(_whole(known, offer.service), protocol=offer.contract.protocol)
    digests = sorted({one.digest for one in serving if one.digest}) or sorted(offer.digests)
    return Cluster(
        f"{offer.service}@{'+'.join(digests)}",
        offer.service,
        _endpoints(known, serving),
        protocol=offer.contract.protocol,
        **_manifested(known, offer.service),
    )


def _canaries(known: Known, offer: Offer) -> Cluster | None:
    replicas = known.present_by_service.get(offer.service, ())
    serving = [one for one in replicas if one.canary and _serves(one, offer)]
    if not serving:
        return None
    return Cluster(
        on_trial(offer.service),
        offer.service,
        _endpoints(known, serving),
        protocol=offer.contract.protocol,
        **_manifested(known, offer.service),
    )


def _serves(replica: Replica, offer: Offer) -> bool:
    """One that names no contract is taken to offer everything."""
    return not replica.digest or replica.digest in offer.digests


def _split(known: Known, cluster: Cluster, trial: Cluster | None) -> Canary | None:
    percent = known.system.services[cluster.service].canary_percent
    return Canary(trial.name, percent) if trial and trial != cluster and percent else None


def _endpoints(known: Known, replicas: Sequence[Replica]) -> tuple[Endpoint, ...]:
    """Nobody is fresh where all are: somebody has to do the work."""
    fresh = known.fresh if any(one.key not in known.fresh for one in replicas) else frozenset()
    found = (replace(Endpoint.parse(one.address), tls=one.tls, fresh=one.key in fresh) for one in replicas)
    return tuple(sorted(set(found)))


@Kept
def _routes(offer: Offer, cluster: str, retries: Retries, default_bytes: int) -> list[Route]:
    """One, or two where those requests are treated otherwise that carry a header, the one with the header first: an upgrade, or
    an Idempotency-Key where only with it a request may be repeated.
    """
    route = _route(offer, cluster, retries, default_bytes)
    if offer.operation.websocket:
        socket = replace(route, methods=("GET",), timeout_s=None, try_timeout_s=None, header=_UPGRADE, websocket=True)
        return [socket, route]
    if route.repeatable or not offer.operation.idempotent:
        return [route]
    # No try is given up while it runs: the next one would find its key in use, and be answered 409.
    return [replace(route, repeatable=True, try_timeout_s=None, header=_IDEMPOTENCY_KEY), route]


def _route(offer: Offer, cluster: str, retries: Retries, default_bytes: int) -> Route:
    operation = offer.operation
    body_limit_bytes = operation.body_limit_bytes or (default_bytes if operation.streaming else BODY_LIMIT_BYTES)
    # HEAD follows GET (RFC 9110 §9.3.2).
    methods = ("GET", "HEAD") if operation.method == "GET" else (operation.method,)
    repeatable = operation.repeatable or _SAFE.issuperset(methods)
    return Route(
        name=offer.name,
        service=offer.service,
        path=offer.path,
        methods=methods,
        cluster=cluster,
        token=PUBLIC if operation.public else TokenRule(scope=operation.scope),
        timeout_s=_timeout_s(operation),
        repeatable=repeatable,
        try_timeout_s=_try_timeout_s(operation, retries) if repeatable else None,
        rate_limit=operation.rate_limit,
        body_limit_bytes=body_limit_bytes,
        whole_body=operation.whole_body and body_limit_bytes <= _KEPT_BYTES,
        cache=operation.cache,
        retries=retries.count,
    )


def _try_timeout_s(operation: Operation, retries: Retries) -> float | None:
    """The operation's own, else its service's. A stream that takes its time is no try that has failed."""
    return operation.try_timeout_s or (None if operation.streaming else retries.try_timeout_s)


def _timeout_s(operation: Operation) -> float | None:
    """The gateway waits longer than the handler may take, so that it is the handler's own timeout that is reported."""
    if operation.streaming:
        return None
    if operation.timeout_s is None:
        return BUDGETS.gateway_s
    return operation.timeout_s * BUDGETS.gateway_s / BUDGETS.handler_s


def _with_refusals(routes: list[Route]) -> tuple[Entry, ...]:
    """After the routes of a path, what answers its other methods."""
    found: list[Entry] = []
    for _, group in groupby(routes, key=lambda route: route.path.shape):
        same = _explicit_head(list(group))
        path = same[0].path
        allow = tuple(sorted({"OPTIONS", *(method for route in same for method in route.methods)}, key=order))
        found += [*_preflights(same, path, allow), *same, *_options(same, path, allow), MethodRefusal(path, allow)]
    return tuple(found)


def _options(routes: list[Route], path: Path, allow: tuple[str, ...]) -> list[MethodList]:
    """The gateway answers OPTIONS unless the service does (RFC 9110 §9.3.7)."""
    return [] if any("OPTIONS" in route.methods for route in routes) else [MethodList(path, allow)]


def _preflights(routes: list[Route], path: Path, allow: tuple[str, ...]) -> list[MethodList]:
    """An operation for OPTIONS that needs a token can't answer preflights: a browser sends none with them."""
    guarded = any("OPTIONS" in route.methods and route.token.required for route in routes)
    return [MethodList(path, allow, preflight=True)] if guarded else []


def _with_borders(table: tuple[Entry, ...], system: SystemEntry) -> tuple[Entry, ...]:
    """`/{page}` of a service at / would take paths below /orders that orders has no operation for: these are 404.

    The order of paths already puts what is written below a prefix before every pattern that reaches into it.
    """
    prefixes = sorted({entry.prefix for entry in routed(system).values()} - {"/"})
    depth = max((prefix.count("/") for prefix in prefixes), default=0)
    # Few of many: nothing else can reach into a prefix that it is not written below.
    patterns = [(at, one.path) for at, one in enumerate(table) if not isinstance(one, Border) and one.path.is_open(depth)]
    borders: dict[int, list[Entry]] = {}
    for prefix in prefixes:
        reaching = (at for at, path in patterns if path.reaches_into(prefix))
        if (at := next(reaching, None)) is not None:
            borders.setdefault(at, []).append(Border(prefix))
    return tuple(one for at, entry in enumerate(table) for one in (*borders.get(at, ()), entry))


def _explicit_head(routes: list[Route]) -> list[Route]:
    """A service that has an operation for HEAD keeps it; GET's route then takes GET alone."""
    if not any(route.methods == ("HEAD",) for route in routes):
        return routes
    return [replace(route, methods=("GET",)) if route.methods == ("GET", "HEAD") else route for route in routes]
