"""What is rendered for operators is judged by their own schemas: CloudNativePG, External Secrets. MongoDB has none here."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from atoll.system.manifest import TlsSpec
from tests.support.deployed import shop_plan, with_canary
from tests.support.manifests import written
from tests.support.operators import refused


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All that the overlays and their components have for these two."""
    folder = tmp_path_factory.mktemp("kubernetes")
    plan = with_canary(shop_plan(), "orders")
    containers = replace(plan.system.containers, secret_store="ClusterSecretStore/vault")
    gateway = replace(plan.system.gateway, tls=TlsSpec())
    written(replace(plan, system=replace(plan.system, containers=containers, gateway=gateway)), folder)
    every = [one for path in folder.rglob("*.yaml") for one in yaml.safe_load_all(path.read_text()) if one]
    return [one for one in every if one.get("kind") in ("Cluster", "ExternalSecret")]


def test_operators_take_what_is_rendered_for_them(resources: list[dict[str, Any]], tmp_path: Path) -> None:
    assert {one["kind"] for one in resources} == {"Cluster", "ExternalSecret"}
    assert "gateway-tls" in {one["metadata"]["name"] for one in resources}
    assert refused(resources, tmp_path) == ""


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("Cluster", "instance", 3, "'\"instance\"' does not exist"),
        ("Cluster", "instances", 0, "instances must be >= 1"),
        ("ExternalSecret", "secretStoreRef", {"kind": "Vault", "name": "vault"}, "secretStoreRef/kind must be equal to"),
    ],
)
def test_a_key_or_a_value_that_an_operator_would_refuse_is_noticed(
    resources: list[dict[str, Any]], tmp_path: Path, kind: str, path: str, value: Any, said: str
) -> None:
    wrong = copy.deepcopy(next(one for one in resources if one["kind"] == kind))
    wrong["spec"][path] = value
    assert said in refused([wrong], tmp_path)
