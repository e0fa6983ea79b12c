"""What makes three servers of the bus's one: a kustomize component, which the overlays for real work have. Pure.

`base` has one server and everything that does not depend on how many there are; its clients find all of them under one name.
"""

from __future__ import annotations

from typing import Any

from atoll.deploy import yaml
from atoll.deploy.bus import BUS_PORT, HEALTH_PORT, OF_SEVERAL, ROUTE_PORT, BusHosts
from atoll.deploy.environment import provision_environment
from atoll.deploy.images import BUS, PROVISION
from atoll.deploy.kubernetes.network import between_servers
from atoll.deploy.kubernetes.objects import Object, documents, selector, variables
from atoll.deploy.plan import Plan
from atoll.deploy.secrets import BUS_CONFIGURATION

__all__ = ["COMPONENT", "component", "three_servers"]

COMPONENT = "components/three-servers"
_EACH = tuple(f"{BUS}-{number}.{BUS}" for number in range(OF_SEVERAL))


def three_servers() -> BusHosts:
    """One name for clients, which resolves to all; by its own name each is found by the others, and by provision."""
    return BusHosts(each=_EACH, routes=_EACH, health=True)


def component(plan: Plan, configuration: str) -> dict[str, str]:
    generated = {"name": BUS, "behavior": "replace", "files": [BUS_CONFIGURATION], "options": {"disableNameSuffixHash": True}}
    head = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "namespace": plan.system.name}
    parts = {
        "resources": ["network.yaml"],
        "configMapGenerator": [generated],
        "patches": [{"path": "servers.yaml"}, {"path": "service.yaml"}, *_provision_patches()],
    }
    files = {
        "kustomization.yaml": yaml.text({**head, **parts}),
        "network.yaml": documents([between_servers(plan)]),
        "servers.yaml": yaml.text(_patch("apps/v1", "StatefulSet", _servers(plan))),
        # The servers must find each other before any of them is ready; clients try the next one.
        "service.yaml": yaml.text(_patch("v1", "Service", {"publishNotReadyAddresses": True})),
        **{f"{kind.lower()}.yaml": yaml.text(_provision(kind)) for kind in _JOBS},
        BUS_CONFIGURATION: configuration,
    }
    return {f"{COMPONENT}/{name}": text for name, text in files.items()}


def _patch(version: str, kind: str, spec: Object) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": BUS}, "spec": spec}


def _servers(plan: Plan) -> Object:
    """All start at once, since none is ready alone. A new version comes one by one, each when the last has caught up."""
    pod = {"topologySpreadConstraints": _apart(plan), "containers": [_container()]}
    return {"replicas": OF_SEVERAL, "podManagementPolicy": "Parallel", "template": {"spec": pod}}


def _apart(plan: Plan) -> list[Object]:
    """No two on one machine, also where there are but two: of three servers one may go. Zones where there are several."""
    chosen = {"maxSkew": 1, "labelSelector": {"matchLabels": selector(plan, BUS)}}
    never = {"whenUnsatisfiable": "DoNotSchedule", "minDomains": OF_SEVERAL}
    return [
        {**chosen, "topologyKey": "kubernetes.io/hostname", **never},
        {**chosen, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"},
    ]


def _container() -> Object:
    own_name = {"name": "ATOLL_BUS_SERVER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    told = [own_name, *variables({"ATOLL_BUS_ADVERTISE": f"$(ATOLL_BUS_SERVER).{BUS}:{BUS_PORT}"})]
    return {
        "name": BUS,
        "env": told,
        "ports": [{"name": "routes", "containerPort": ROUTE_PORT}, {"name": "health", "containerPort": HEALTH_PORT}],
        # Long enough to get from the others all that a volume can hold, for one that has lost its own.
        "startupProbe": {**_asked("/healthz"), "failureThreshold": 450},
        "readinessProbe": _asked("/healthz?js-server-only=true"),
    }


def _asked(path: str) -> Object:
    """/healthz says yes when all that this server stores has caught up with what the others store."""
    return {"tcpSocket": None, "httpGet": {"path": path, "port": "health"}, "timeoutSeconds": 5}


def _provision_patches() -> list[Object]:
    """Its Job's name has a digest, so it is found by its label."""
    chosen = f"app.kubernetes.io/name={PROVISION}"
    return [{"path": f"{kind.lower()}.yaml", "target": {"kind": kind, "labelSelector": chosen}} for kind in _JOBS]


_JOBS = ("Job", "CronJob")


def _provision(kind: str) -> Object:
    address = variables({"ATOLL_BUS_ADDRESS": provision_environment(three_servers())["ATOLL_BUS_ADDRESS"]})
    spec: dict[str, Any] = {"template": {"spec": {"containers": [{"name": PROVISION, "env": address}]}}}
    if kind == "CronJob":
        spec = {"jobTemplate": {"spec": spec}}
    return {"apiVersion": "batch/v1", "kind": kind, "metadata": {"name": PROVISION}, "spec": spec}
