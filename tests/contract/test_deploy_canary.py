"""A canary on container hosts: beside its service, with what is that one's, and nothing of anybody else is touched."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from atoll.deploy.changes import changes
from atoll.deploy.compose import Told, cells
from atoll.deploy.compose import render as render_compose
from atoll.deploy.files import sources
from atoll.deploy.images import Sources, context, images
from atoll.deploy.kubernetes import render as render_kubernetes
from atoll.deploy.plan import Plan
from atoll.deploy.secrets import BUS_CONFIGURATION, secret_files
from atoll.system.contract import Contract
from tests.contract.test_deploy_kubernetes import OPERATORS, VERSIONS, reachable
from tests.support import golden, manifests
from tests.support.contracts import contract
from tests.support.deployed import shop_plan, with_canary

Objects = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def stable() -> Plan:
    return shop_plan()


@pytest.fixture(scope="module")
def both(stable: Plan) -> Plan:
    return with_canary(stable, "orders")


def compose(one: Plan) -> dict[str, str]:
    return render_compose(one, Told(manifests.told(one).images, cells({}, [part.name for part in one.members])))


def kubernetes(one: Plan) -> dict[str, str]:
    return render_kubernetes(one, manifests.told(one))


def services(one: Plan) -> dict[str, Any]:
    return dict(yaml.safe_load(compose(one)["compose.yaml"])["services"])


def objects(one: Plan, folder: Path, overlay: str = "production") -> Objects:
    """By kind and name, without the digests that names have."""
    manifests.written(one, folder)
    found = manifests.built(folder, overlay)
    return {f"{each['kind']} {re.sub(r'-[0-9a-z]{10}$', '', each['metadata']['name'])}": each for each in found}


def test_in_compose_it_is_one_more_container_and_nobody_else_is_made_anew(stable: Plan, both: Plan) -> None:
    before, after = services(stable), services(both)
    assert {name for name in after if before.get(name) != after[name]} == {"orders-canary"}


def test_in_compose_it_shares_its_service_s_cell_database_and_secrets_and_has_another_image(both: Plan) -> None:
    service, canary = (services(both)[name] for name in ("orders", "orders-canary"))
    assert canary["networks"] == service["networks"]
    assert canary["depends_on"] == service["depends_on"]
    assert canary["volumes"] == ["./secrets/orders:/run/secrets:ro", "orders-canary-data:/data"]
    assert canary["environment"] == {**service["environment"], "ATOLL_CANARY": "1"}
    assert canary["image"] == "shop/orders:1.1.0-0123456789ab"
    assert canary["scale"] == 2


@pytest.mark.parametrize("rendered", [compose, kubernetes])
def test_its_share_is_what_the_gateway_is_told_and_changes_nothing_but_that(rendered: Any, both: Plan) -> None:
    (path,) = (path for path in rendered(both) if path.endswith("provision/system.json"))
    told = json.loads(rendered(both)[path])["services"]
    assert {name: one["canary_percent"] for name, one in told.items() if one["canary_percent"]} == {"orders": 30}


def test_in_kubernetes_it_has_objects_of_its_own_and_changes_only_who_reaches_whom(
    stable: Plan, both: Plan, tmp_path: Path
) -> None:
    before, after = objects(stable, tmp_path / "stable"), objects(both, tmp_path / "both")
    assert after.keys() - before.keys() == {
        "ServiceAccount orders-canary",
        "ConfigMap orders-canary",
        "Job orders-canary-migrate",
        "Deployment orders-canary",
        "PodDisruptionBudget orders-canary",
        "NetworkPolicy orders-canary",
        "ConfigMap canary-orders",
    }
    assert {key for key in before if before[key] != after[key]} == {
        *("NetworkPolicy gateway", "NetworkPolicy nats", "NetworkPolicy orders-to-database"),
        *("Job provision", "CronJob provision", "ConfigMap system"),
    }


def test_in_kubernetes_it_runs_the_other_image_with_its_service_s_secret_as_often_as_said(both: Plan, tmp_path: Path) -> None:
    deployment = objects(both, tmp_path)["Deployment orders-canary"]["spec"]
    spec = deployment["template"]["spec"]
    assert deployment["replicas"] == 2
    assert {one["image"] for one in (*spec["containers"], *spec["initContainers"])} == {"shop/orders:1.1.0-0123456789ab"}
    assert [one["secret"]["secretName"] for one in spec["volumes"] if "secret" in one] == ["orders"]


def test_no_selector_of_its_service_chooses_it(both: Plan, tmp_path: Path) -> None:
    """Kubernetes would count its pods as that one's."""
    found = objects(both, tmp_path)
    labels = found["Deployment orders-canary"]["spec"]["template"]["metadata"]["labels"]
    for key in ("Deployment orders", "PodDisruptionBudget orders"):
        chosen = found[key]["spec"]["selector"]["matchLabels"]
        assert not chosen.items() <= labels.items(), key


def test_it_is_reached_by_the_gateway_and_reaches_its_service_s_database_and_the_bus(both: Plan, tmp_path: Path) -> None:
    found = list(objects(both, tmp_path, "dev").values())
    assert ("gateway", "orders-canary") in reachable(found, 8000)
    assert {target for source, target in reachable(found, 5432) if source == "orders-canary"} == {"orders-database"}
    assert ("orders-canary-migrate", "orders-database") in reachable(found, 5432)
    assert ("orders-canary", "nats") in reachable(found, 4222)


def test_an_operator_s_database_is_its_too(both: Plan, tmp_path: Path) -> None:
    found = objects(both, tmp_path, "operators")
    volumes = [
        next(one for one in found[key]["spec"]["template"]["spec"]["volumes"] if one["name"] == "secrets")
        for key in ("Deployment orders", "Deployment orders-canary", "Job orders-canary-migrate")
    ]
    assert volumes[0] == volumes[1] == volumes[2]
    assert volumes[0]["projected"]["sources"][1]["secret"]["name"] == "orders-database-app"


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_its_objects_keep_the_schema(both: Plan, tmp_path: Path, overlay: str) -> None:
    for one in objects(both, tmp_path, overlay).values():
        if one["kind"] not in OPERATORS:
            kubernetes_validate.validate(one, VERSIONS[-1], strict=True)


def test_its_user_of_the_bus_may_what_either_version_does(stable: Plan) -> None:
    more = contract("orders", [], ["auth.user_registered"])
    both = with_canary(stable, "orders", more)
    assert "MSG.NEXT.auth.orders" in secret_files(both, manifests.keeper(both))[BUS_CONFIGURATION]
    assert "MSG.NEXT.auth.orders" not in secret_files(stable, manifests.keeper(stable))[BUS_CONFIGURATION]


def test_a_canary_that_a_consumer_could_not_read_is_refused_by_that_one_s_name(stable: Plan) -> None:
    document = deepcopy(stable.contracts["catalog"].document)
    payload = document["asyncapi"]["channels"]["catalog.price_changed"]["messages"]["price_changed"]["payload"]
    payload["required"].remove("currency")
    found = changes(compose(stable), compose(with_canary(stable, "catalog", Contract.parse(document))))
    assert found.refused == ("orders would break: of catalog-canary, price_changed.currency is not always there",)
    assert "catalog-canary is new" in found.contracts


def test_a_canary_that_becomes_the_service_is_the_same_image(both: Plan) -> None:
    """Nothing is built, pushed or pulled for it."""
    stable = sources(shop_plan())
    read = Sources(stable.atoll, stable.version, stable.locks, {**stable.own, "orders-canary": stable.own["orders"]})
    made = images(both, read)
    assert context(made["orders"], both, read) == context(made["orders-canary"], both, read)


def test_the_rendered_canary_of_the_shop_is_the_golden_one(both: Plan) -> None:
    text = compose(both)["compose.yaml"].partition("  orders-canary:\n")[2].partition("\n  cardprovider:\n")[0]
    golden.check("compose/canary.yaml", f"orders-canary:\n{text}\n")
    golden.check("kubernetes/canary.yaml", kubernetes(both)["base/orders-canary.yaml"])
