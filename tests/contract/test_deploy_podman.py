"""The overlay podman, as kustomize builds it: what the overlay dev has, in kinds that podman plays, and else unchanged."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from atoll.deploy.kubernetes.podman import LEFT_OUT
from tests.support.deployed import shop_plan
from tests.support.manifests import built, written

Objects = list[dict[str, Any]]
WORKLOADS = ("Deployment", "StatefulSet", "Job")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("podman")
    written(shop_plan(), folder)
    return folder


@pytest.fixture(scope="module")
def dev(folder: Path) -> Objects:
    return built(folder, "dev")


@pytest.fixture(scope="module")
def podman(folder: Path) -> Objects:
    return built(folder, "podman")


def names(objects: Objects, *kinds: str) -> set[str]:
    return {one["metadata"]["name"] for one in objects if one["kind"] in kinds}


def specs(objects: Objects) -> dict[str, dict[str, Any]]:
    """Of every pod, by the name of what starts it."""
    found = [one for one in objects if one["kind"] in (*WORKLOADS, "Pod")]
    return {one["metadata"]["name"]: one["spec"].get("template", {}).get("spec", one["spec"]) for one in found}


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def test_it_has_only_what_podman_knows_and_every_object_keeps_its_schema(podman: Objects) -> None:
    assert {one["kind"] for one in podman} == {"ConfigMap", "Pod", "Deployment"}
    for one in podman:
        kubernetes_validate.validate(one, "1.37", strict=True)


def test_what_is_left_out_is_what_is_listed(dev: Objects, podman: Objects) -> None:
    gone = {one["kind"] for one in dev} - {one["kind"] for one in podman}
    assert gone == {*LEFT_OUT, "StatefulSet", "Job", "Secret"} - {
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
    }  # nor has dev
    assert specs(podman).keys() == specs(dev).keys()


def test_whatever_has_a_service_is_a_pod_of_that_name(dev: Objects, podman: Objects) -> None:
    """podman's DNS knows pods by their names, and a Deployment's pod has another."""
    assert {"nats", "gateway", "orders-database"} <= names(dev, "Service") <= names(podman, "Pod")


def test_containers_run_what_they_run_elsewhere_without_rights(dev: Objects, podman: Objects) -> None:
    before, kept = specs(dev), ("image", "command", "env", "envFrom", "resources", "securityContext")
    for name, spec in specs(podman).items():
        assert spec["securityContext"] == before[name]["securityContext"], name
        for container, other in zip(containers(spec), containers(before[name]), strict=True):
            assert [container.get(key) for key in kept] == [other.get(key) for key in kept], name


def test_no_probe_is_left_and_only_the_gateway_publishes_its_one_port_to_this_machine(podman: Objects) -> None:
    for name, spec in specs(podman).items():
        for container in containers(spec):
            assert not [key for key in container if key.endswith("Probe")], name
            ports = [(one["hostIP"], one["hostPort"], one["containerPort"]) for one in container.get("ports", [])]
            assert ports == ([("127.0.0.1", 8080, 8080)] if name == "gateway" else []), name


def test_no_two_pods_share_a_volume(podman: Objects) -> None:
    """podman keeps emptyDirs, claims, ConfigMaps and Secrets in volumes of one name space; what is only read may be shared."""
    written_to: list[str] = []
    read: set[str] = set()
    for spec in specs(podman).values():
        for volume in spec["volumes"]:
            assert volume.keys() & {"emptyDir", "persistentVolumeClaim", "configMap"}, volume
            if "configMap" in volume:
                read.add(volume["configMap"]["name"])
            else:
                written_to.append(volume.get("persistentVolumeClaim", {}).get("claimName", volume["name"]))
    assert len(written_to) == len(set(written_to))
    assert read.isdisjoint(written_to)


def test_mounts_are_where_they_are_elsewhere(dev: Objects, podman: Objects) -> None:
    before = specs(dev)
    for name, spec in specs(podman).items():
        for container, other in zip(containers(spec), containers(before[name]), strict=True):
            paths = {mount["mountPath"] for mount in container["volumeMounts"]}
            more = {"/etc/atoll/contracts"} if name.startswith("provision-") else set()
            assert paths == {mount["mountPath"] for mount in other["volumeMounts"]} | more, name
            assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}


def test_provision_reads_the_very_contracts_of_the_base(folder: Path, podman: Objects) -> None:
    found = {one["metadata"]["name"]: one.get("data", {}) for one in podman if one["kind"] == "ConfigMap"}
    contracts = folder / "base" / "provision" / "contracts"
    assert found["provision-contracts-files"] == {path.name: path.read_text() for path in contracts.iterdir()}
    assert found["provision-files"] == {"system.json": (folder / "base" / "provision" / "system.json").read_text()}


def test_each_secret_is_a_config_map_with_the_same_content(folder: Path, dev: Objects, podman: Objects) -> None:
    """podman would write the base64 of a Secret's values into its files."""
    for name in names(dev, "Secret"):
        (found,) = [one for one in podman if one["metadata"]["name"] == f"{name}-secrets"]
        content = {key: base64.b64decode(value).decode() for key, value in found["binaryData"].items()}
        assert content == {path.name: path.read_text() for path in (folder / "secrets" / name).iterdir()}


def test_whatever_is_mounted_or_read_is_there(podman: Objects) -> None:
    maps = names(podman, "ConfigMap")
    for name, spec in specs(podman).items():
        asked = {volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume}
        asked |= {source["configMapRef"]["name"] for one in containers(spec) for source in one.get("envFrom", [])}
        assert asked <= maps, name
