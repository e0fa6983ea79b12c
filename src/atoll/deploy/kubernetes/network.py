"""Who reaches whom, computed from manifest and contracts: nobody, and then what is named here. Pure.

client → gateway → service → its own database and the bus. Monitoring may ask services for metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atoll.deploy import entrance
from atoll.deploy.bus import BUS_PORT, ROUTE_PORT
from atoll.deploy.entrance import METRICS_PORT
from atoll.deploy.images import APP_PORT, BUS, GATEWAY, PROVISION
from atoll.deploy.kubernetes.migrations import migrating
from atoll.deploy.kubernetes.objects import Object, host, labels, named, selector
from atoll.deploy.plan import Part, Plan
from atoll.deploy.secrets import database_name
from atoll.provision.database import PORTS
from atoll.telemetry.collector import collector_at

__all__ = ["OWN_NAMES", "between_servers", "policies", "to_operator_s", "to_own_database", "to_pods"]

_DNS_PORT = 53
_EVERYTHING, _NAMES, _ROUTES = "deny-everything", "dns", f"{BUS}-routes"
OWN_NAMES = (_EVERYTHING, _NAMES, _ROUTES)
"""Of policies that belong to no part of the system."""
# All addresses, but those that clusters, their machines and their neighbours have.
_OUTSIDE = {
    "0.0.0.0/0": ["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"],
    "::/0": ["fc00::/7", "fe80::/10"],
}
# Kubernetes itself, behind its Service and where that leads.
_API_PORTS = (443, 6443)
# CloudNativePG asks its servers how they are, and connects with them, wherever it runs; they ask each other too. MongoDB's
# tell Kubernetes. https://cloudnative-pg.io/documentation/current/networking
_OPERATOR = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "cloudnative-pg"}}}
_STANDING_PORT = 8000
_MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


def policies(plan: Plan) -> list[Object]:
    """All but those of databases, which differ from overlay to overlay."""
    return [
        _policy(plan, _EVERYTHING, {}, ingress=[], egress=[]),
        _policy(plan, _NAMES, {}, egress=[_dns()]),
        _gateway(plan),
        _bus(plan),
        _policy(plan, PROVISION, selector(plan, PROVISION), egress=[_to(plan, [BUS], BUS_PORT)]),
        *(_part(plan, one) for one in plan.parts),
    ]


def to_own_database(plan: Plan, one: Part) -> list[Object]:
    """Between a service and the one server that is its own, for both ends."""
    assert one.database is not None
    port, name = PORTS[one.database.kind], database_name(one)
    return [
        to_pods(plan, one, {"matchLabels": selector(plan, name)}),
        _policy(plan, host(name), selector(plan, name), ingress=[{"from": [_users(plan, one)], "ports": _ports(port)}]),
    ]


def to_operator_s(plan: Plan, one: Part, pods: Object) -> list[Object]:
    """Between a service and those pods, the servers that an operator made for it. They also reach their like and Kubernetes."""
    assert one.database is not None
    kind, peers = one.database.kind, {"podSelector": pods}
    ingress = [{"from": [_users(plan, one), peers], "ports": _ports(PORTS[kind])}]
    if kind == "postgresql":
        ingress.append({"from": [_OPERATOR, peers], "ports": _ports(_STANDING_PORT, PORTS[kind])})
    egress = [{"to": [peers]}, {"ports": _ports(*_API_PORTS)}]
    return [to_pods(plan, one, pods), _policy(plan, host(database_name(one)), pods, ingress=ingress, egress=egress)]


def _users(plan: Plan, one: Part) -> Object:
    """The pods that may use a service's database."""
    versions = [one, *(canary for service, canary in plan.canaries.items() if service == one.name)]
    return {"podSelector": _any_of(plan, [name for each in versions for name in (each.name, migrating(each.name))])}


def to_pods(plan: Plan, one: Part, pods: Object | None) -> Object:
    """From a service to the pods of its database; None: to wherever somebody else's is, at that port."""
    assert one.database is not None
    where = {"to": [{"podSelector": pods}]} if pods else {}
    way = {**where, "ports": _ports(PORTS[one.database.kind])}
    return _policy(plan, f"{host(one.name)}-to-database", _users(plan, one)["podSelector"], egress=[way])


def _gateway(plan: Plan) -> Object:
    """From everywhere at its public ports, from clients of the system inside; to those who answer requests, and to the bus."""
    reached = [one.name for one in plan.parts if _answers(plan, one)]
    egress = [_to(plan, reached, APP_PORT), _to(plan, [BUS], BUS_PORT), *_traces(plan)]
    public = [{"protocol": port.protocol, "port": port.number} for port in entrance.ports(plan.system)]
    ingress = [{"ports": public}, {"from": [_MONITORING], "ports": _ports(METRICS_PORT)}]
    clients = [one.name for one in plan.members if one.kind == "client"]
    if clients and (inside := entrance.inside_port(plan.system)):
        ingress.append(_from(plan, clients, inside))
    return _policy(plan, GATEWAY, selector(plan, GATEWAY), ingress=ingress, egress=egress)


def _answers(plan: Plan, one: Part) -> bool:
    return one.contract is not None and (bool(one.contract.operations) or one.service == plan.system.gateway.fallback)


def _bus(plan: Plan) -> Object:
    users = [*(one.name for one in plan.parts if one.kind != "simulator"), GATEWAY, PROVISION]
    return _policy(plan, BUS, selector(plan, BUS), ingress=[_from(plan, users, BUS_PORT)])


def between_servers(plan: Plan) -> Object:
    """Where the bus has several."""
    ways = {"ingress": [_from(plan, [BUS], ROUTE_PORT)], "egress": [_to(plan, [BUS], ROUTE_PORT)]}
    return _policy(plan, _ROUTES, selector(plan, BUS), **ways)


def _part(plan: Plan, one: Part) -> Object:
    chosen = selector(plan, one.name)
    if one.kind == "simulator":
        callers = [other.name for other in plan.parts if one.name in other.outside]
        return _policy(plan, host(one.name), chosen, ingress=[_from(plan, callers, APP_PORT)])
    ingress = [{"from": [_MONITORING], "ports": _ports(APP_PORT)}]
    if _answers(plan, one):
        ingress.insert(0, _from(plan, [GATEWAY], APP_PORT))
    egress = [_to(plan, [BUS], BUS_PORT), *_traces(plan)]
    if one.kind == "client":
        egress.append(_to(plan, [GATEWAY], entrance.client_port(plan.system)))
    if one.outside:
        egress.append(_to(plan, one.outside, APP_PORT))
    if one.spec.outbound:
        egress.append({"to": [{"ipBlock": {"cidr": cidr, "except": own}} for cidr, own in _OUTSIDE.items()]})
    return _policy(plan, host(one.name), chosen, ingress=ingress, egress=egress)


def _policy(plan: Plan, name: str, pods: Object, **ways: Any) -> Object:
    """For pods with those labels, or chosen in another way. `ways` are `ingress` and `egress`; one that is empty lets nothing
    through.
    """
    types = [way.title() for way in ways]
    lists = {way: rules for way, rules in ways.items() if rules}
    chosen = pods if not pods or pods.keys() & {"matchLabels", "matchExpressions"} else {"matchLabels": pods}
    spec = {"podSelector": chosen, "policyTypes": types, **lists}
    return named("networking.k8s.io/v1 NetworkPolicy", name, labels(plan, name, "network"), spec=spec)


def _any_of(plan: Plan, names: Sequence[str]) -> Object:
    listed = {"key": "app.kubernetes.io/name", "operator": "In", "values": [host(name) for name in names]}
    return {"matchLabels": {"app.kubernetes.io/part-of": plan.system.name}, "matchExpressions": [listed]}


def _to(plan: Plan, names: Sequence[str], port: int) -> Object:
    return {"to": [{"podSelector": _any_of(plan, names)}], "ports": _ports(port)}


def _from(plan: Plan, names: Sequence[str], port: int) -> Object:
    return {"from": [{"podSelector": _any_of(plan, names)}], "ports": _ports(port)}


def _ports(*ports: int) -> list[Object]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _dns() -> Object:
    system = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    return {"to": [system], "ports": [{"protocol": protocol, "port": _DNS_PORT} for protocol in ("UDP", "TCP")]}


def _traces(plan: Plan) -> list[Object]:
    """To the collector, wherever it is."""
    if not (endpoint := plan.system.telemetry.otlp_endpoint):
        return []
    _, port = collector_at(endpoint)
    return [{"ports": _ports(port)}]
