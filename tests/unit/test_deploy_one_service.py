"""One service is deployed without another: which rendered objects its new image and contract change."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from atoll.deploy.changes import changes
from atoll.deploy.compose import Told, cells
from atoll.deploy.compose import render as render_compose
from atoll.deploy.files import write
from atoll.deploy.kubernetes import render as render_kubernetes
from atoll.deploy.plan import Plan, plan
from atoll.deploy.provisioning import former
from atoll.deploy.secrets import secret_files
from atoll.system.contract import Contract
from tests.support import manifests
from tests.support.deployed import shop_plan

LATER = "shop/orders:1.1.0-ba9876543210"
CONFIGURATIONS = ("base/nats/nats.conf", "components/three-servers/nats/nats.conf")
# Patches of Jobs, whose names have digests.
PATCHES = "overlays/podman/pods.yaml"
SAID = ("orders: GET /orders/later is new", "orders: subscription auth.user_registered is new")


@pytest.fixture(scope="module")
def before() -> Plan:
    return shop_plan()


@pytest.fixture(scope="module")
def after(before: Plan) -> Plan:
    """Orders has another operation and consumes another event."""
    document = deepcopy(before.contracts["orders"].document)
    document["openapi"]["paths"]["/orders/later"] = {"get": {"operationId": "later", "responses": {"200": {"description": ""}}}}
    channel = {"address": "event.auth.user_registered.{partition}"}
    document["asyncapi"]["channels"]["auth.user_registered"] = channel
    receive = {"action": "receive", "channel": {"$ref": "#/channels/auth.user_registered"}}
    document["asyncapi"]["operations"]["receive_auth_user_registered"] = receive
    return plan(before.system, {**before.contracts, "orders": Contract.parse(document)})


def compose(one: Plan, images: dict[str, str]) -> dict[str, str]:
    return render_compose(one, Told(images, cells({}, [part.name for part in one.members])))


def images(one: Plan, **changed: str) -> dict[str, str]:
    return {**manifests.told(one).images, **changed}


def test_in_compose_its_container_alone_and_what_the_bus_allows(before: Plan, after: Plan) -> None:
    old, new = compose(before, images(before)), compose(after, images(after, orders=LATER))
    assert {path for path in new if old.get(path) != new[path]} == {"compose.yaml", "provision/contracts/orders.json"}
    services, later = (yaml.safe_load(one["compose.yaml"])["services"] for one in (old, new))
    assert {name for name in later if services.get(name) != later[name]} == {"orders"}
    secrets, changed = (secret_files(one, manifests.keeper(one)) for one in (before, after))
    assert {name for name in changed if secrets.get(name) != changed[name]} == {"nats/nats.conf"}
    found = changes(old, new)
    assert found.contracts == SAID
    assert [line.strip() for line in found.files if line[0] in "+-"][2:] == [
        f'-    image: "{images(before)["orders"]}"',
        f'+    image: "{LATER}"',
    ]


def test_in_kubernetes_its_own_objects_alone_and_provision_and_what_the_bus_allows(
    before: Plan, after: Plan, tmp_path: Path
) -> None:
    old, new = (
        render_kubernetes(one, replace(manifests.told(one), images=named))
        for one, named in ((before, images(before)), (after, images(after, orders=LATER)))
    )
    for name, files in (("before", old), ("after", new)):
        write(tmp_path / name, files)
    first, second = (objects(tmp_path / name) for name in ("before", "after"))
    assert first.keys() == second.keys()
    assert {key for key in second if first[key] != second[key]} == {
        "Deployment orders",
        "Job orders-migrate",
        "ConfigMap contract-orders",
        "Job provision",
        "CronJob provision",
        "ConfigMap nats",
    }
    found = changes(old, new)
    assert found.contracts == SAID
    assert {line for line in found.files if line.startswith("+++")} == {
        f"+++ after/{name}" for name in ("base/orders.yaml", "base/provision.yaml", *CONFIGURATIONS, PATCHES)
    }


def objects(folder: Path) -> dict[str, object]:
    """By kind and name, without the digests that names have."""
    return {
        f"{one['kind']} {re.sub(r'-[0-9a-z]{10}$', '', one['metadata']['name'])}": one
        for one in manifests.built(folder, "production")
    }


def test_the_way_back_is_what_was_there_before_and_lets_the_newer_pods_consume_until_they_have_left(
    before: Plan, after: Plan, tmp_path: Path
) -> None:
    """Rendered into the folder of the newer version, from the former code and contract."""
    first = render_kubernetes(before, manifests.told(before))
    newer = render_kubernetes(after, replace(manifests.told(after), images=images(after, orders=LATER)))
    back = replace(before, former=former(newer, before))
    assert [one.digest for one in back.former] == [after.contracts["orders"].digest]
    for name, files in (("first", first), ("back", render_kubernetes(back, manifests.told(back)))):
        write(tmp_path / name, files)
    was, now = (objects(tmp_path / name) for name in ("first", "back"))
    assert now["Deployment orders"] == was["Deployment orders"]
    assert now["Job orders-migrate"] == was["Job orders-migrate"], "which ran already"
    (added,) = now.keys() - was.keys()
    assert added == f"ConfigMap former-orders-{after.contracts['orders'].digest}"
    assert {key for key in was if was[key] != now[key]} == {"Job provision", "CronJob provision", "ConfigMap nats"}
    assert "MSG.NEXT.auth.orders" in str(now["ConfigMap nats"])
