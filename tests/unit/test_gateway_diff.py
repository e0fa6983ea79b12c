"""What Envoy uses against what it should, in spite of the many ways in which protobuf spells one thing."""

from __future__ import annotations

from typing import Any

from atoll.gateway.diff import differences, running

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
WANTED = {
    "@type": CLUSTER,
    "name": "orders",
    "connect_timeout": "0.5s",
    "max_bytes": 1024,
    "warm": False,
    "denominator": "HUNDRED",
    "hosts": [{"port": 1}, {"port": 2}],
    "vary": {"value": "origin", "append_action": "APPEND_IF_EXISTS_OR_ADD"},
}


def _dump(*clusters: dict[str, Any]) -> dict[str, Any]:
    return {"configs": [{"dynamic_active_clusters": [{"version_info": "1", "cluster": one} for one in clusters]}, {}]}


def _told(*clusters: dict[str, Any]) -> list[str]:
    return [str(one) for one in differences({"cds": [WANTED]}, running(_dump(*clusters)))]


def test_one_thing_in_two_spellings_is_no_difference() -> None:
    spelt = {"@type": CLUSTER, "name": "orders", "connect_timeout": "0.500s", "max_bytes": "1024"}

    assert _told({**spelt, "hosts": WANTED["hosts"], "vary": {"value": "origin"}}) == []


def test_a_difference_is_named_by_resource_and_field() -> None:
    changed = {**WANTED, "connect_timeout": "5s", "hosts": [{"port": 1}, {"port": 3}], "warm": True}

    assert _told(changed) == [
        "Cluster orders: connect_timeout: runs 5.0, wanted 0.5",
        "Cluster orders: hosts[1].port: runs 3, wanted 2",
        "Cluster orders: warm: runs True, wanted nothing",
    ]


def test_what_is_missing_and_what_is_too_much_is_told() -> None:
    assert _told() == ["Cluster orders: not running"]
    assert _told(WANTED, {**WANTED, "name": "left"}) == ["Cluster left: runs, and is not wanted"]


def test_a_protection_that_is_switched_off_is_a_difference() -> None:
    strict = {**WANTED, "action": "REJECT_REQUEST"}

    (found,) = differences({"cds": [strict]}, running(_dump(WANTED)))

    assert (found.field, found.desired, found.running) == ("action", "REJECT_REQUEST", None)
