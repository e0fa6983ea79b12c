"""What `render … --diff` says: files line by line, contracts in words, and which consumers would break."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atoll.deploy.changes import changes
from atoll.deploy.compose import Told, cells, render
from atoll.deploy.files import read_rendered, write, write_secrets
from atoll.deploy.kubernetes import render as render_kubernetes
from atoll.deploy.plan import Plan, plan
from atoll.system.contract import Contract
from tests.support import manifests
from tests.support.deployed import shop_plan


def for_compose(one: Plan) -> dict[str, str]:
    return render(one, Told(manifests.told(one).images, cells({}, [part.name for part in one.members])))


def for_kubernetes(one: Plan) -> dict[str, str]:
    return render_kubernetes(one, manifests.told(one))


def with_contract(one: Plan, name: str, document: dict[str, Any]) -> Plan:
    return plan(one.system, {**one.contracts, name: Contract.parse(document)})


def without_currency(one: Plan) -> Plan:
    """A catalog that no longer says in which currency a price is; orders needs it."""
    document = deepcopy(one.contracts["catalog"].document)
    payload = document["asyncapi"]["channels"]["catalog.price_changed"]["messages"]["price_changed"]["payload"]
    payload["required"].remove("currency")
    del payload["properties"]["currency"]
    return with_contract(one, "catalog", document)


@pytest.fixture
def shop() -> Plan:
    return shop_plan()


@pytest.mark.parametrize("rendered", [for_compose, for_kubernetes])
def test_an_incompatible_event_names_the_consumer_that_would_break(shop: Plan, rendered: Any) -> None:
    found = changes(rendered(shop), rendered(without_currency(shop)))
    assert found.broken == ("orders would break: of catalog, price_changed.currency is gone",)
    assert "catalog: event price_changed changed" in found.contracts


@pytest.mark.parametrize("rendered", [for_compose, for_kubernetes])
def test_the_same_system_changes_nothing(shop: Plan, rendered: Any) -> None:
    assert not changes(rendered(shop), rendered(shop)).any


def test_who_reads_the_old_event_until_it_is_replaced_is_named_too(shop: Plan) -> None:
    before = for_kubernetes(shop)
    catalog = without_currency(shop)
    orders = deepcopy(shop.contracts["orders"].document)
    payload = orders["asyncapi"]["channels"]["catalog.price_changed"]["messages"]["price_changed"]["payload"]
    payload["required"].remove("currency")
    found = changes(before, for_kubernetes(with_contract(catalog, "orders", orders)))
    assert found.broken == ("orders would break until it is replaced: of catalog, price_changed.currency is gone",)


def test_a_service_that_goes_names_those_who_consume_its_events(shop: Plan) -> None:
    after = {path: text for path, text in for_kubernetes(shop).items() if not path.endswith("contracts/catalog.json")}
    found = changes(for_kubernetes(shop), after)
    assert "orders would break: catalog is gone, and it consumes its events" in found.broken
    assert "catalog is gone" in found.contracts


def test_a_new_image_is_told_where_it_runs_and_in_the_name_of_the_job_that_migrates(shop: Plan) -> None:
    """It migrates, waits and serves; the overlay podman calls that Job by its name."""
    told = manifests.told(shop)
    later = replace(told, images={**told.images, "orders": "shop/orders:1.1.0-ba9876543210"})
    found = changes(for_kubernetes(shop), render_kubernetes(shop, later))
    assert (found.broken, found.contracts) == ((), ())
    changed = [re.sub(r"migrate-[0-9a-f]{10}", "migrate-…", line.strip()) for line in found.files if line[0] in "+-"]
    assert changed == [
        "--- before/base/orders.yaml",
        "+++ after/base/orders.yaml",
        *("-  name: orders-migrate-…", "+  name: orders-migrate-…"),
        *4 * ('-          image: "shop/orders:1.0.0-0123456789ab"', '+          image: "shop/orders:1.1.0-ba9876543210"'),
        "--- before/overlays/podman/pods.yaml",
        "+++ after/overlays/podman/pods.yaml",
        *("-  name: orders-migrate-…", "+  name: orders-migrate-…"),
    ]


def test_what_lies_beside_the_rendered_files_is_nobody_s_business(shop: Plan, tmp_path: Path) -> None:
    texts = for_compose(shop)
    write(tmp_path, texts)
    write(tmp_path, {"compose.override.yaml": "services: {}\n", "base/old.yaml": "# Rendered by atoll; long ago.\n"})
    write_secrets(tmp_path / "secrets", {"orders/bus_url": "nats://orders:secret@nats:4222"})
    found = read_rendered(tmp_path, texts)
    assert found.keys() - texts.keys() == {"base/old.yaml"}
    assert changes(found, texts).files == (
        "--- before/base/old.yaml",
        "+++ after/base/old.yaml",
        "@@ -1 +0,0 @@",
        "-# Rendered by atoll; long ago.",
    )
