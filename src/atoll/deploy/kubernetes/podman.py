"""What `podman kube play` runs: the base with a simple server for each database, patched to what podman 4.3 knows. Pure.

It knows Pods, Deployments and ConfigMaps. A StatefulSet, a Job, and whatever has a Service becomes a Pod: in podman's DNS a pod
has its own name, and a Deployment's has another. The rest is left out (`LEFT_OUT`); a claim too, which can't be played twice,
while podman makes the volume of one that a pod names. Of the rest it gets some wrong: values of Secrets stay base64, so these
become ConfigMaps, which it keeps in the same place; an `emptyDir` is shared by all pods whose volume has its name; `projected`
is missing; every port is published; and probes are asked by programs that these images don't have.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from atoll.deploy.entrance import INSIDE
from atoll.deploy.images import GATEWAY
from atoll.deploy.kubernetes.objects import Object, documents
from atoll.deploy.kubernetes.overlays import kustomization
from atoll.deploy.plan import Plan

__all__ = ["LEFT_OUT", "podman"]

LEFT_OUT = (
    "Namespace",
    "ServiceAccount",
    "NetworkPolicy",
    "Service",
    "CronJob",
    "PersistentVolumeClaim",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
)
_FOLDER = "overlays/podman"
_ORDER = ("ConfigMap", "Pod", "Deployment")
_ADDRESS = "127.0.0.1"
_CLIENTS_FIND = "ATOLL_GATEWAY_URL"
_UNWANTED = ("ports", "startupProbe", "readinessProbe", "livenessProbe")
_AS_POD = (
    {"op": "replace", "path": "/apiVersion", "value": "v1"},
    {"op": "replace", "path": "/kind", "value": "Pod"},
    {"op": "move", "from": "/spec/template/spec", "path": "/spec"},
)
Names = Mapping[str, Mapping[str, tuple[str, str]]]
"""What a ConfigMap holds: by key, another one and the key there."""


def podman(plan: Plan, base: Sequence[Object], databases: Sequence[Object]) -> dict[str, str]:
    """Its files; `base` is without what kustomize generates. The bus is the base's one server, whatever other overlays have."""
    objects = [*base, *databases]
    workloads = [one for one in objects if "template" in one.get("spec", {})]
    services = {one["metadata"]["name"]: one["spec"]["ports"] for one in objects if one["kind"] == "Service"}
    deployed = [one["metadata"]["name"] for one in workloads if one["kind"] == "Deployment"]
    reached = [str(port["targetPort"]) for port in services[GATEWAY]]
    flat = {name: told for one in workloads for name, told in _flat(one).items()}
    patches = [
        {"path": "pods.yaml"},
        *({"target": {"kind": kind}, "patch": _deletion(kind)} for kind in LEFT_OUT),
        *(_changed(target, _AS_POD) for target in ({"kind": "StatefulSet"}, {"kind": "Job"})),
        _changed({"kind": "Deployment", "name": "|".join(name for name in deployed if name in services)}, _AS_POD),
        *(_changed({"kind": "Secret", "name": name}, _as_config(name)) for name in _secrets(workloads)),
        *_clients(objects),
    ]
    return {
        f"{_FOLDER}/databases.yaml": documents([one for one in databases if one["kind"] not in LEFT_OUT]),
        f"{_FOLDER}/pods.yaml": documents([_patch(one, reached) for one in workloads]),
        f"{_FOLDER}/files.yaml": documents([{**_config(name), "data": {}} for name in flat]),
        f"{_FOLDER}/kustomization.yaml": kustomization(
            namespace=plan.system.name,
            sortOptions={"order": "legacy", "legacySortOptions": {"orderFirst": list(_ORDER)}},
            resources=["../../base", "../../secrets", "databases.yaml", "files.yaml"],
            patches=patches,
            replacements=list(_replacements(flat)),
        ),
    }


def _clients(objects: Sequence[Object]) -> Iterator[Object]:
    """Where the gateway has a second Service for clients of the system, they find it by the name of its pod."""
    for one in objects:
        url = one.get("data", {}).get(_CLIENTS_FIND, "")
        if one["kind"] == "ConfigMap" and INSIDE in url:
            named = {"kind": "ConfigMap", "name": one["metadata"]["name"]}
            yield _changed(named, [{"op": "replace", "path": f"/data/{_CLIENTS_FIND}", "value": url.replace(INSIDE, GATEWAY)}])


def _deletion(kind: str) -> str:
    return f"$patch: delete\nkind: {kind}\nmetadata:\n  name: any\n"


def _changed(target: Object, operations: Sequence[Object]) -> Object:
    options = {"allowKindChange": True, "allowNameChange": True}
    return {"target": target, "options": options, "patch": json.dumps(operations)}


def _secrets(workloads: Sequence[Object]) -> list[str]:
    volumes = [volume for one in workloads for volume in _spec(one)["volumes"]]
    return sorted({volume["secret"]["secretName"] for volume in volumes if "secret" in volume})


def _as_config(name: str) -> Sequence[Object]:
    return (
        {"op": "replace", "path": "/kind", "value": "ConfigMap"},
        {"op": "replace", "path": "/metadata/name", "value": _secret(name)},
        {"op": "move", "from": "/data", "path": "/binaryData"},
        {"op": "remove", "path": "/type"},
    )


def _secret(name: str) -> str:
    return f"{name}-secrets"


def _spec(workload: Object) -> Any:
    return workload["spec"]["template"]["spec"]


def _owner(workload: Object) -> str:
    """Its name; a Job's without the digest."""
    told = workload["metadata"]
    return str(told["labels"]["app.kubernetes.io/name"] if workload["kind"] == "Job" else told["name"])


# What a patch says of one workload


def _patch(one: Object, reached: Collection[str]) -> Object:
    """`reached` are the names of ports that the gateway's Service has."""
    spec = _spec(one)
    first = [_container(one, each) for each in spec.get("initContainers", ())]
    own = [_container(one, each) for each in spec["containers"]]
    if one["metadata"]["name"] == GATEWAY:
        own[0]["ports"] = _published(spec["containers"][0], reached)
    patched = {
        # Kubernetes starts a failed Job again; here podman does. And what runs first it would start again for ever.
        **({"restartPolicy": "OnFailure"} if one["kind"] == "Job" or first else {}),
        **({"initContainers": first} if first else {}),
        "containers": own,
        "volumes": [*_volumes(one), *_claims(one)],
    }
    named = {"apiVersion": one["apiVersion"], "kind": one["kind"], "metadata": {"name": one["metadata"]["name"]}}
    return {**named, "spec": {"template": {"spec": patched}}}


def _container(one: Object, container: Object) -> Object:
    gone: Object = {key: None for key in _UNWANTED if key in container}
    volumes = {volume["name"]: volume for volume in _spec(one)["volumes"]}
    mounts: list[Object] = []
    for mount in container["volumeMounts"]:
        volume, path = volumes.get(mount["name"], {}), mount["mountPath"]
        if "emptyDir" in volume:
            mounts.append({"mountPath": path, "name": _private(one, mount["name"])})
        mounts += [{"mountPath": f"{path}/{folder}", "name": name} for name, folder in _folders(one, volume) if folder]
    return {"name": container["name"], **gone, "volumeMounts": mounts}


def _published(container: Object, reached: Collection[str]) -> list[Object]:
    """Of all ports the ones that this machine sees."""
    found: list[Object] = []
    for port in container["ports"]:
        which = {key: port[key] for key in ("containerPort", "protocol") if key in port}
        shown = {"hostPort": port["containerPort"], "hostIP": _ADDRESS}
        found.append({**which, **(shown if port["name"] in reached else {"$patch": "delete"})})
    return found


def _private(one: Object, volume: str) -> str:
    return f"{_owner(one)}-{volume}"


def _volumes(one: Object) -> Iterator[Object]:
    for volume in _spec(one)["volumes"]:
        name = volume["name"]
        if "emptyDir" in volume:
            yield {"name": name, "$patch": "delete"}
            yield {"name": _private(one, name), "emptyDir": {}}
        if "secret" in volume:
            yield {"name": name, "secret": None, "configMap": {"name": _secret(volume["secret"]["secretName"])}}
        for config, folder in _folders(one, volume):
            said = {"configMap": {"name": config}}
            yield {"name": config, **said} if folder else {"name": name, "projected": None, **said}


def _claims(one: Object) -> Iterator[Object]:
    """As a StatefulSet names them."""
    for claim in one["spec"].get("volumeClaimTemplates", ()):
        name = claim["metadata"]["name"]
        yield {"name": name, "persistentVolumeClaim": {"claimName": f"{name}-{one['metadata']['name']}-0"}}


# What is `projected`: a ConfigMap for each folder, filled from those that are there


def _folders(one: Object, volume: Object) -> list[tuple[str, str]]:
    """ConfigMaps, and the folder of the volume that each one is."""
    items = [item for source in volume.get("projected", {}).get("sources", ()) for item in source["configMap"]["items"]]
    folders = sorted({item["path"].rpartition("/")[0] for item in items})
    return [(_files(one, folder), folder) for folder in folders]


def _files(one: Object, folder: str) -> str:
    return "-".join((_owner(one), *filter(None, folder.split("/")), "files"))


def _flat(one: Object) -> dict[str, dict[str, tuple[str, str]]]:
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for volume in _spec(one)["volumes"]:
        for source in volume.get("projected", {}).get("sources", ()):
            for item in source["configMap"]["items"]:
                folder, _, file = item["path"].rpartition("/")
                found.setdefault(_files(one, folder), {})[file] = (source["configMap"]["name"], item["key"])
    return found


def _config(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}


def _replacements(flat: Names) -> Iterator[Object]:
    for name, files in flat.items():
        for file, (other, key) in files.items():
            target = {
                "select": {"kind": "ConfigMap", "name": name},
                "fieldPaths": [f"data.[{file}]"],
                "options": {"create": True},
            }
            yield {"source": {"kind": "ConfigMap", "name": other, "fieldPath": f"data.[{key}]"}, "targets": [target]}
