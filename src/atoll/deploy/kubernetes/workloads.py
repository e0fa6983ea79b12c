"""A file for each part: services, clients, auth, simulators, the gateway, the bus, and databases of one server. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.deploy import entrance
from atoll.deploy.bus import BUS_MEMORY_MIB, BUS_PORT, bus_variables
from atoll.deploy.entrance import METRICS_PORT
from atoll.deploy.environment import database_environment, environment, gateway_environment
from atoll.deploy.images import APP_PORT, BUS, GATEWAY
from atoll.deploy.kubernetes.migrations import job, migrates, waiting
from atoll.deploy.kubernetes.objects import Container, Object, Pod, claim, config, host, labels, named, selector, variables
from atoll.deploy.plan import Part, Plan
from atoll.deploy.secrets import database_name
from atoll.provision.database import PORTS

__all__ = ["bus", "database", "embedded", "gateway", "part"]

_GATEWAY_REPLICAS = 2
# Of the one core that a process may have, whatever it requests.
_BUSY_CPU = "700m"
_MOST_TIMES = 3
_DATA = {"name": "data"}
_SCRATCH = {"name": "data", "emptyDir": {}}
# A Service's list of pods reaches every node some seconds after a pod has begun to go; so long it takes what still comes.
_LEAVING_S = 5


def embedded(one: Part) -> bool:
    """Whether its database is a file of its own: then it runs once, and the next one starts when this one has gone."""
    return one.database is not None and one.database.kind == "sqlite"


def part(plan: Plan, one: Part, image: str) -> list[Object]:
    """A service, a canary of one, a client, auth or a simulator. Who tries another version has no scaler: it has its share."""
    name, marked = host(one.name), labels(plan, one.name, one.kind)
    values = config(name, marked, _told(plan, one))
    lasting = _lasting(one)
    found = [_account(name, marked), values]
    if lasting:
        found.append(named("v1 PersistentVolumeClaim", f"{name}-data", marked, spec=claim("1Gi")["spec"]))
    told: list[Object] = [{"configMapRef": {"name": values["metadata"]["name"]}}]
    if migrates(one):
        found.append(job(plan, one, image, told))
    found.append(_deployment(plan, one, _pod(plan, one, image, told)))
    found.append(_disruption(plan, one.name, marked))
    if not lasting and not one.tries and one.replicas:
        found.append(_scaler(name, marked, one.replicas))
    if one.kind == "simulator":
        found.append(_service(plan, one.name, marked, {"http": APP_PORT}))
    return found


def _lasting(one: Part) -> bool:
    """Whether it has a volume of its own, and so runs once."""
    return embedded(one) or one.kind == "simulator"


def _told(plan: Plan, one: Part) -> dict[str, str]:
    if one.kind == "simulator":
        return {name.upper(): str(value) for name, value in (one.values or {}).items()}
    # Nobody else has this place: the one who follows may take its leases back at once.
    place = {"ATOLL_REPLICA": f"{one.name}-1"} if embedded(one) else {}
    return {**environment(plan, one, host), **place}


def _pod(plan: Plan, one: Part, image: str, told: list[Object]) -> Pod:
    name = host(one.name)
    more: dict[str, Any] = {
        "ports": [{"name": "http", "containerPort": APP_PORT}],
        "envFrom": told,
        **(_foreign_probes() if one.foreign else _probes()),
    }
    claimed = {"name": "data", "persistentVolumeClaim": {"claimName": f"{name}-data"}}
    volumes = {"/data": claimed if _lasting(one) else _SCRATCH}
    secret = "" if one.kind == "simulator" else host(one.service)
    first = (waiting(image, told),) if migrates(one) else ()
    container = Container(name, image, 256, more=more)
    return Pod(name, container, first, volumes, secret, more=_spread(plan, one.name))


def _probes() -> dict[str, Any]:
    """Live says that the process answers; ready also that its database does, which no restart of it would mend."""
    return {
        "startupProbe": _asked("/health/live", periodSeconds=1, failureThreshold=60),
        "readinessProbe": _asked("/health/ready", periodSeconds=2, failureThreshold=2),
        "livenessProbe": _asked("/health/live", periodSeconds=10, failureThreshold=3),
    }


def _asked(path: str, **often: int) -> Object:
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 2, **often}


def _foreign_probes() -> dict[str, Any]:
    connects = {"tcpSocket": {"port": "http"}}
    return {
        "startupProbe": {**connects, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {**connects, "periodSeconds": 5},
        "livenessProbe": {**connects, "periodSeconds": 10},
    }


def _deployment(plan: Plan, one: Part, pod: Pod) -> Object:
    marked = labels(plan, one.name, one.kind)
    # Who scales says how many there are; a number here would undo it at each apply.
    count = {"replicas": one.replicas} if _lasting(one) or one.tries or not one.replicas else {}
    strategy = {"type": "Recreate"} if _lasting(one) else _ROLLING
    template = pod.template(marked, _scraped(APP_PORT, "/health/metrics") if not one.foreign else None)
    spec = {**count, "strategy": strategy, "minReadySeconds": _LEAVING_S, "revisionHistoryLimit": 5}
    return named(
        "apps/v1 Deployment", host(one.name), marked, spec={**spec, **_selecting(plan, one.name), "template": template}
    )


_ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def _scraped(port: int, path: str) -> dict[str, str]:
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), "prometheus.io/path": path}


def _selecting(plan: Plan, name: str) -> Object:
    return {"selector": {"matchLabels": selector(plan, name)}}


def _spread(plan: Plan, name: str) -> dict[str, Any]:
    """Over nodes and zones where there are several; never waiting for one.

    Counted are pods of the same version, since the old ones go; and nodes that may take one, not those of the control plane.
    """
    keys = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    counted = {"matchLabelKeys": ["pod-template-hash"], "nodeTaintsPolicy": "Honor"}
    chosen = {"labelSelector": {"matchLabels": selector(plan, name)}, **counted}
    return {
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", **chosen} for key in keys
        ]
    }


def _account(name: str, marked: Mapping[str, str]) -> Object:
    return named("v1 ServiceAccount", name, marked, automountServiceAccountToken=False)


def _disruption(plan: Plan, name: str, marked: Mapping[str, str]) -> Object:
    """One at a time. With a minimum instead, what runs once could never be moved; nor could a pod that is not ready, which
    nobody misses. One of the bus's has a voice all the same.
    """
    unready = {} if name == BUS else {"unhealthyPodEvictionPolicy": "AlwaysAllow"}
    spec = {"maxUnavailable": 1, **unready, **_selecting(plan, name)}
    return named("policy/v1 PodDisruptionBudget", host(name), marked, spec=spec)


def _scaler(name: str, marked: Mapping[str, str], least: int) -> Object:
    target = {"type": "AverageValue", "averageValue": _BUSY_CPU}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": least,
        "maxReplicas": least * _MOST_TIMES,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
    }
    return named("autoscaling/v2 HorizontalPodAutoscaler", name, marked, spec=spec)


def _service(plan: Plan, name: str, marked: Mapping[str, str], ports: Mapping[str, int], **more: Any) -> Object:
    listed = [{"name": key, "port": port, "targetPort": key} for key, port in ports.items()]
    return named("v1 Service", host(name), marked, spec={**more, "selector": selector(plan, name), "ports": listed})


def _ways_in(plan: Plan, marked: Mapping[str, str]) -> list[Object]:
    """For clients outside, which may become a load balancer; with TLS another for clients of the system, which never may."""
    listed = [
        {"name": port.name, "port": port.number, "targetPort": port.name, **_protocol(port)}
        for port in entrance.ports(plan.system)
    ]
    found = [named("v1 Service", GATEWAY, marked, spec={"selector": selector(plan, GATEWAY), "ports": listed})]
    if inside := entrance.inside_port(plan.system):
        ports = [{"name": "inside", "port": inside, "targetPort": "inside"}]
        found.append(named("v1 Service", entrance.INSIDE, marked, spec={"selector": selector(plan, GATEWAY), "ports": ports}))
    return found


def _protocol(port: entrance.Port) -> Object:
    """TCP is what Kubernetes takes for granted."""
    return {} if port.protocol == "TCP" else {"protocol": port.protocol}


def _gateway_ports(plan: Plan) -> list[Object]:
    found = [{"name": port.name, "containerPort": port.number, **_protocol(port)} for port in entrance.ports(plan.system)]
    inside = entrance.inside_port(plan.system)
    found += [{"name": "inside", "containerPort": inside}] if inside else []
    return [*found, {"name": "metrics", "containerPort": METRICS_PORT}]


def _gateway_volumes(plan: Plan) -> dict[str, Object]:
    """A Secret that changes is another one in the volume a minute or so later, and the gateway looks there all the time."""
    certificate = {"name": "tls", "secret": {"secretName": entrance.TLS, "defaultMode": 0o440}}
    return {"/data": _SCRATCH, **({entrance.TLS_FOLDER: certificate} if plan.system.gateway.tls else {})}


def _gateway_probes(port: str) -> dict[str, Any]:
    """Ready is who knows what the bus knows. Whoever waits for that is not started anew, since no restart would mend it."""
    connects = {"tcpSocket": {"port": port}}
    ready = {"httpGet": {"path": "/ready", "port": "metrics"}, "timeoutSeconds": 5}
    return {
        "startupProbe": {**connects, "periodSeconds": 2, "failureThreshold": 60},
        "readinessProbe": {**ready, "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**connects, "periodSeconds": 10, "failureThreshold": 3},
    }


def gateway(plan: Plan, image: str) -> list[Object]:
    """Two at least: it is the one way in. It finds replicas by the registry, at their pods' addresses."""
    marked, (first, *_) = labels(plan, GATEWAY, "gateway"), entrance.ports(plan.system)
    values = config(GATEWAY, marked, gateway_environment(plan, "0.0.0.0"))
    more = {
        "ports": _gateway_ports(plan),
        "envFrom": [{"configMapRef": {"name": values["metadata"]["name"]}}],
        **_gateway_probes(first.name),
        "lifecycle": {"preStop": {"exec": {"command": ["python3", "-c", f"import time; time.sleep({_LEAVING_S})"]}}},
    }
    container = Container(GATEWAY, image, plan.system.gateway.memory_limit_mib or 1024, "500m", more)
    # preStop, Envoy's drain (16 s), and its end.
    pod = Pod(GATEWAY, container, volumes=_gateway_volumes(plan), grace_s=_LEAVING_S + 30, more=_spread(plan, GATEWAY))
    spec = {"strategy": _ROLLING, "minReadySeconds": _LEAVING_S, "revisionHistoryLimit": 5, **_selecting(plan, GATEWAY)}
    return [
        _account(GATEWAY, marked),
        values,
        named(
            "apps/v1 Deployment",
            GATEWAY,
            marked,
            spec={**spec, "template": pod.template(marked, _scraped(METRICS_PORT, "/metrics"))},
        ),
        _disruption(plan, GATEWAY, marked),
        _scaler(GATEWAY, marked, _GATEWAY_REPLICAS),
        *_ways_in(plan, marked),
    ]


def bus(plan: Plan, image: str) -> list[Object]:
    """One server with a volume, of which `bus.component` makes three."""
    marked = labels(plan, BUS, "bus")
    more = {
        "ports": [{"name": "nats", "containerPort": BUS_PORT}],
        "env": variables(bus_variables(plan)),
        **_server_probes("nats", {"tcpSocket": {"port": "nats"}}),
    }
    configuration = {"name": "configuration", "configMap": {"name": BUS}}
    container = Container(BUS, image, BUS_MEMORY_MIB, "250m", more)
    pod = Pod(BUS, container, volumes={"/etc/nats": configuration, "/data": _DATA}, grace_s=30)
    return [
        _account(BUS, marked),
        _stateful(plan, BUS, marked, pod),
        _disruption(plan, BUS, marked),
        _service(plan, BUS, marked, {"nats": BUS_PORT}, clusterIP="None"),
    ]


def database(plan: Plan, one: Part, image: str) -> list[Object]:
    """A service's own server, alone, with a volume: for trying things. It makes its role and its database itself."""
    assert one.database is not None
    name, kind = database_name(one), one.database.kind
    marked, port = labels(plan, name, "database"), PORTS[kind]
    values = config(host(name), marked, database_environment(one))
    more = {
        "ports": [{"name": "database", "containerPort": port}],
        "envFrom": [{"configMapRef": {"name": values["metadata"]["name"]}}],
        **_server_probes("database", {"exec": {"command": ["test", "-e", "/data/ready"]}}),
    }
    container = Container("database", image, 1024 if kind == "mongodb" else 512, more=more)
    pod = Pod(host(name), container, volumes={"/data": _DATA}, grace_s=30)
    service = _service(plan, name, marked, {"database": port}, clusterIP="None")
    return [_account(host(name), marked), values, _stateful(plan, name, marked, pod), service]


def _server_probes(port: str, ready: Object) -> dict[str, Any]:
    return {
        "startupProbe": {**ready, "periodSeconds": 2, "failureThreshold": 150},
        "readinessProbe": {**ready, "periodSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 10, "failureThreshold": 6},
    }


def _stateful(plan: Plan, name: str, marked: Mapping[str, str], pod: Pod) -> Object:
    spec = {"replicas": 1, "serviceName": host(name), **_selecting(plan, name), "template": pod.template(marked)}
    return named("apps/v1 StatefulSet", host(name), marked, spec={**spec, "volumeClaimTemplates": [claim("10Gi")]})
