"""ExternalSecret resources: every key that a pod reads, from a store that the manifest names."""

from __future__ import annotations

import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from atoll.deploy.kubernetes import render
from atoll.deploy.plan import Plan
from atoll.system.manifest import TlsSpec
from tests.support import golden
from tests.support.deployed import shop_plan, with_canary
from tests.support.manifests import pods, told, written

Objects = list[dict[str, Any]]


def with_store(store: str) -> Plan:
    plan = with_canary(shop_plan(), "orders")
    return replace(plan, system=replace(plan.system, containers=replace(plan.system.containers, secret_store=store)))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Objects]:
    """Each overlay with its component, as an overlay of one's own would have both."""
    folder = tmp_path_factory.mktemp("kubernetes")
    written(with_store("ClusterSecretStore/vault"), folder)
    return {overlay: with_component(folder, overlay) for overlay in ("production", "operators")}


def with_component(folder: Path, overlay: str) -> Objects:
    own = folder / "overlays" / f"own-{overlay}"
    own.mkdir()
    text = {"resources": [f"../{overlay}"], "components": [f"../../components/secrets-of-{overlay}"]}
    (own / "kustomization.yaml").write_text(yaml.safe_dump({"kind": "Kustomization", "namespace": "shop", **text}))
    kubectl = Path(sysconfig.get_path("scripts")) / "kubectl"
    done = subprocess.run([str(kubectl), "kustomize", str(own)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def external(objects: Objects) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "ExternalSecret"}


@pytest.mark.parametrize("overlay", ["production", "operators"])
def test_every_secret_that_a_pod_mounts_is_brought_or_is_an_operator_s(deployed: dict[str, Objects], overlay: str) -> None:
    objects = deployed[overlay]
    mounted = {
        source["secret"]["name"]
        for _, template in pods(objects)
        for volume in template["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if "secret" in source
    } | {
        volume["secret"]["secretName"]
        for _, template in pods(objects)
        for volume in template["spec"]["volumes"]
        if "secret" in volume
    }
    of_operators = {name for name in mounted if name.endswith(("-database-app", "-database-url"))}
    assert external(objects).keys() >= mounted - of_operators
    assert {"orders", "gateway", "provision", "auth"} <= mounted


def test_its_keys_are_those_that_the_pod_reads(deployed: dict[str, Objects]) -> None:
    production, operators = (external(deployed[overlay]) for overlay in ("production", "operators"))
    assert keys(production["orders"]) == {"bus_ca", "bus_url", "database_url"}
    assert keys(production["storefront"]) == {"bus_ca", "bus_url", "session_secret"}
    assert keys(operators["orders"]) == {"bus_ca", "bus_url"}
    assert keys(operators["catalog-database"]) == {"database_password"}
    assert not [name for name in production if name.endswith("-database")]


def keys(spec: dict[str, Any]) -> set[str]:
    for one in spec["data"]:
        assert one["remoteRef"]["property"] == one["secretKey"]
    return {one["secretKey"] for one in spec["data"]}


def test_the_store_is_the_manifest_s_and_each_part_has_a_place_in_it(deployed: dict[str, Objects]) -> None:
    for name, spec in external(deployed["production"]).items():
        assert spec["secretStoreRef"] == {"kind": "ClusterSecretStore", "name": "vault"}
        assert spec["target"]["name"] == name
        assert {one["remoteRef"]["key"] for one in spec["data"]} == {f"shop/{name}"}


def test_without_a_store_there_is_no_component() -> None:
    plan = with_store("")
    assert not [path for path in render(plan, told(plan)) if path.startswith("components/secrets")]


def test_the_components_of_the_shop_are_the_golden_ones() -> None:
    plan = with_store("SecretStore/vault")
    for path, text in render(plan, told(plan)).items():
        if path.startswith("components/secrets"):
            golden.check(f"kubernetes/{path}", text)


def test_a_certificate_is_a_secret_of_the_type_that_others_make_too(tmp_path: Path) -> None:
    plan = with_store("ClusterSecretStore/vault")
    written(replace(plan, system=replace(plan.system, gateway=replace(plan.system.gateway, tls=TlsSpec()))), tmp_path)
    found = external(with_component(tmp_path, "production"))
    assert found["gateway-tls"]["target"]["template"] == {"type": "kubernetes.io/tls"}
    assert [name for name, spec in found.items() if "template" in spec["target"]] == ["gateway-tls"]
