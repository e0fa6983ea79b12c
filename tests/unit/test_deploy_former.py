"""Which former contracts are rendered beside the present ones, and what they add."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.deploy.changes import changes
from atoll.deploy.compose import Told, cells
from atoll.deploy.compose import render as render_compose
from atoll.deploy.files import read_rendered, remove_contracts, write
from atoll.deploy.kubernetes import render as render_kubernetes
from atoll.deploy.plan import Plan, plan
from atoll.deploy.provisioning import former
from atoll.deploy.secrets import BUS_CONFIGURATION, secret_files
from atoll.system.contract import Contract
from atoll.system.manifest import parse
from tests.support import manifests
from tests.support.contracts import contract
from tests.support.manifests import built, pods, written

ALL = contract("orders", ["order_placed"], ["catalog.price_changed", "catalog.product_added"])
LESS = contract("orders", ["order_placed"], ["catalog.price_changed"])
OTHER = contract("orders", ["order_placed", "order_paid"], ["catalog.price_changed"])
CATALOG = contract("catalog", ["price_changed", "product_added"])
MANIFEST = """
format = 1
name = "shop"
[services.orders]
[services.catalog]
"""
Rendered = Callable[[Plan], dict[str, str]]


def planned(orders: Contract, before: dict[str, str] | None = None) -> Plan:
    """As `render` makes it, after it has rendered `before`."""
    contracts = {"auth": contract("auth"), "catalog": CATALOG, "orders": orders}
    found = plan(parse(MANIFEST, Path("/shop/atoll.toml")), contracts)
    return replace(found, former=former(before or {}, found))


def compose(one: Plan) -> dict[str, str]:
    return render_compose(one, Told(manifests.told(one).images, cells({}, [part.name for part in one.members])))


def kubernetes(one: Plan) -> dict[str, str]:
    return render_kubernetes(one, manifests.told(one))


def former_in(files: dict[str, str]) -> list[str]:
    return [path.rpartition("/")[2] for path in files if path.rpartition("/")[0].endswith("provision/former")]


@pytest.mark.parametrize("rendered", [compose, kubernetes])
def test_a_contract_that_consumed_more_stays_beside_the_new_one_until_it_is_said_to_have_left(rendered: Rendered) -> None:
    first = rendered(planned(ALL))
    second = rendered(planned(LESS, first))
    third = rendered(planned(OTHER, second))
    assert former_in(second) == former_in(third) == [f"orders.{ALL.digest}.json"]
    assert former_in(rendered(planned(OTHER))) == []


@pytest.mark.parametrize("rendered", [compose, kubernetes])
def test_one_that_consumed_no_more_than_the_new_one_does_not(rendered: Rendered) -> None:
    assert former_in(rendered(planned(ALL, rendered(planned(LESS))))) == []
    assert former_in(rendered(planned(OTHER, rendered(planned(LESS))))) == []


@pytest.mark.parametrize("rendered", [compose, kubernetes])
def test_the_way_back_needs_none(rendered: Rendered) -> None:
    second = rendered(planned(LESS, rendered(planned(ALL))))
    assert former_in(rendered(planned(ALL, second))) == []


def test_nats_conf_allows_what_both_do() -> None:
    both = planned(contract("orders"), compose(planned(LESS)))
    alone = replace(both, former=())
    allowed = "$JS.API.CONSUMER.MSG.NEXT.catalog.orders"
    assert allowed in secret_files(both, manifests.keeper(both))[BUS_CONFIGURATION]
    assert allowed not in secret_files(alone, manifests.keeper(alone))[BUS_CONFIGURATION]


def test_provision_is_given_the_former_contract_and_runs_anew(tmp_path: Path) -> None:
    first = planned(ALL)
    second = planned(LESS, kubernetes(first))
    for name, one in (("first", first), ("second", second)):
        written(one, tmp_path / name)
    before, after = (built(tmp_path / name, "production") for name in ("first", "second"))
    (job,) = [template["spec"] for name, template in pods(after) if name.startswith("Job")]
    paths = [item["path"] for source in job["volumes"][0]["projected"]["sources"] for item in source["configMap"]["items"]]
    assert f"former/orders.{ALL.digest}.json" in paths
    names = [[one["metadata"]["name"] for one in objects if one["kind"] == "Job"] for objects in (before, after)]
    assert names[0] != names[1]


def test_diff_says_it_in_words() -> None:
    first = compose(planned(ALL))
    second = compose(planned(LESS, first))
    said = f"orders: replicas of the contract {ALL.digest} may consume what they do until they have left"
    assert said in changes(first, second).contracts
    gone = f"orders: what only the former contract {ALL.digest} consumes is taken away"
    assert changes(second, compose(planned(LESS))).contracts == (gone,)


def test_what_holds_no_more_is_removed_from_the_folder(tmp_path: Path) -> None:
    second = compose(planned(LESS, compose(planned(ALL))))
    write(tmp_path, second)
    last = compose(planned(LESS))
    assert remove_contracts(tmp_path, last) == [f"provision/former/orders.{ALL.digest}.json"]
    assert not changes(read_rendered(tmp_path, last), last).any
