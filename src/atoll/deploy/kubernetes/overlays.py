"""What differs from place to place: where databases and secrets come from, and how much there is. Pure.

dev: simple servers, secrets from files, everything once. production: databases and secrets of somebody else's.
operators: databases of CloudNativePG and of the MongoDB Community Operator, secrets of somebody else's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from atoll.deploy import yaml
from atoll.deploy.bus import OF_SEVERAL
from atoll.deploy.images import GATEWAY
from atoll.deploy.kubernetes.bus import COMPONENT
from atoll.deploy.kubernetes.migrations import migrating
from atoll.deploy.kubernetes.network import to_operator_s, to_own_database, to_pods
from atoll.deploy.kubernetes.objects import Object, documents, host, labels, named
from atoll.deploy.kubernetes.workloads import database
from atoll.deploy.plan import Part, Plan
from atoll.deploy.secrets import database_name
from atoll.provision.database import PORTS

__all__ = ["databases", "kustomization", "overlays"]

_INSTANCES = 3
_SIZE = "10Gi"
_MONGODB_VERSION = "8.0.4"


def kustomization(**entries: Any) -> str:
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    return yaml.text({**head, **{name: value for name, value in entries.items() if value}})


def overlays(plan: Plan, images: Mapping[str, str]) -> dict[str, str]:
    return {**_dev(plan, images), **_production(plan), **_operators(plan)}


def _bus(plan: Plan, default: int) -> list[str]:
    """Three servers, where the manifest says so, or nothing and this is a place for real work."""
    return [f"../../{COMPONENT}"] if (plan.system.bus.servers or default) > 1 else []


def _with_server(plan: Plan) -> list[Part]:
    return [one for one in plan.members if one.database and one.database.kind in PORTS]


def _once(kind: str) -> Object:
    return {"target": {"kind": kind}, "patch": f"$patch: delete\nkind: {kind}\nmetadata:\n  name: any\n"}


def databases(plan: Plan, images: Mapping[str, str]) -> list[Object]:
    """Simple servers, of one replica each."""
    objects: list[Object] = []
    for one in _with_server(plan):
        if _served(one):
            objects += [*database(plan, one, images[_kind(one)]), *to_own_database(plan, one)]
        else:
            objects.append(to_pods(plan, one, None))
    return objects


def _dev(plan: Plan, images: Mapping[str, str]) -> dict[str, str]:
    return {
        "overlays/dev/databases.yaml": documents(databases(plan, images)),
        "overlays/dev/kustomization.yaml": kustomization(
            namespace=plan.system.name,
            resources=["../../base", "../../secrets", "databases.yaml"],
            components=_bus(plan, 1),
            patches=[_once("HorizontalPodAutoscaler"), _once("PodDisruptionBudget")],
        ),
    }


def _kind(one: Part) -> str:
    assert one.database is not None
    return one.database.kind


def _served(one: Part) -> bool:
    return one.database is not None and one.database.served


def _production(plan: Plan) -> dict[str, str]:
    return {
        "overlays/production/databases.yaml": documents([to_pods(plan, one, None) for one in _with_server(plan)]),
        "overlays/production/kustomization.yaml": kustomization(
            namespace=plan.system.name,
            resources=["../../base", "databases.yaml"],
            components=_bus(plan, OF_SEVERAL),
            patches=[_apart()],
        ),
    }


def _apart() -> Object:
    """Gateways evenly over all machines, whatever waits for that: with one machine the only way in would go."""
    path = "/spec/template/spec/topologySpreadConstraints/0/whenUnsatisfiable"
    patch = json.dumps([{"op": "replace", "path": path, "value": "DoNotSchedule"}])
    return {"target": {"kind": "Deployment", "name": GATEWAY}, "patch": patch}


def _operators(plan: Plan) -> dict[str, str]:
    served = [one for one in _with_server(plan) if _served(one)]
    objects = [each for one in served for each in (_resource(plan, one), *to_operator_s(plan, one, _pods_of_operator(one)))]
    objects += [to_pods(plan, one, None) for one in _with_server(plan) if not _served(one)]
    patches = {f"urls/{host(one.name)}.yaml": yaml.text(_url_of_operator(one)) for one in served}
    return {
        "overlays/operators/databases.yaml": documents(objects),
        **{f"overlays/operators/{path}": text for path, text in patches.items()},
        "overlays/operators/kustomization.yaml": kustomization(
            namespace=plan.system.name,
            resources=["../../base", "databases.yaml"],
            components=_bus(plan, OF_SEVERAL),
            patches=[
                *({"path": path} for path in patches),
                *(each for one in served for each in _elsewhere(plan, one)),
                _apart(),
            ],
        ),
    }


def _resource(plan: Plan, one: Part) -> Object:
    return _mongodb(plan, one) if _kind(one) == "mongodb" else _postgresql(plan, one)


def _postgresql(plan: Plan, one: Part) -> Object:
    name = host(database_name(one))
    spec = {
        "instances": _INSTANCES,
        "storage": {"size": _SIZE},
        "bootstrap": {"initdb": {"database": one.name, "owner": one.name}},
    }
    return named("postgresql.cnpg.io/v1 Cluster", name, labels(plan, name, "database"), spec=spec)


def _mongodb(plan: Plan, one: Part) -> Object:
    name = host(database_name(one))
    user = {
        "name": one.name,
        "db": one.name,
        "passwordSecretRef": {"name": name, "key": "database_password"},
        "roles": [{"name": "dbOwner", "db": one.name}],
        "scramCredentialsSecretName": name,
        "connectionStringSecretName": f"{name}-url",
    }
    spec = {
        "members": _INSTANCES,
        "type": "ReplicaSet",
        "version": _MONGODB_VERSION,
        "security": {"authentication": {"modes": ["SCRAM"]}},
        "users": [user],
    }
    return named("mongodbcommunity.mongodb.com/v1 MongoDBCommunity", name, labels(plan, name, "database"), spec=spec)


def _pods_of_operator(one: Part) -> Object:
    """As the operators label them."""
    name = host(database_name(one))
    return {"matchLabels": {"app": f"{name}-svc"} if _kind(one) == "mongodb" else {"cnpg.io/cluster": name}}


def _url_of_operator(one: Part) -> Object:
    """The operator makes the URL; the service finds it where it always looks."""
    name, account = host(database_name(one)), host(one.name)
    found = (f"{name}-url", "connectionString.standard") if _kind(one) == "mongodb" else (f"{name}-app", "uri")
    made = {"name": found[0], "items": [{"key": found[1], "path": "database_url"}]}
    volume = {"name": "secrets", "secret": None, "projected": _projected({"name": account}, made)}
    body = {"spec": {"template": {"spec": {"volumes": [volume]}}}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": account}, **body}


def _elsewhere(plan: Plan, one: Part) -> Iterator[Object]:
    """The same for what migrates, whose name has a digest, and for a canary."""
    found = [("Job", migrating(one.name))]
    if canary := plan.canaries.get(one.name):
        found += [("Deployment", canary.name), ("Job", migrating(canary.name))]
    for kind, name in found:
        target = {"kind": kind, "labelSelector": f"app.kubernetes.io/name={host(name)}"}
        yield {"path": f"urls/{host(one.name)}.yaml", "target": target}


def _projected(*secrets: Object) -> Object:
    return {"defaultMode": 0o440, "sources": [{"secret": one} for one in secrets]}
