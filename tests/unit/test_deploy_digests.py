"""Which digests are remembered after a push, and that a rendered image bears the one that is known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.deploy import digests
from atoll.deploy.files import read_digests, write
from atoll.deploy.kubernetes import render
from atoll.errors import SystemMistake
from tests.support.deployed import shop_plan, with_canary
from tests.support.manifests import OVERLAYS, built, pods, told, written

ONE, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64
REFERENCES = {"orders": "shop/orders:1.0.0-aaaaaaaaaaaa", "catalog": "shop/catalog:1.0.0-bbbbbbbbbbbb"}


def test_who_was_pushed_is_named_by_its_digest_too() -> None:
    found = digests.pinned(REFERENCES, {REFERENCES["orders"]: ONE})
    assert found == {"orders": f"{REFERENCES['orders']}@{ONE}", "catalog": REFERENCES["catalog"]}
    assert digests.unpinned(found) == [REFERENCES["catalog"]]


def test_what_nobody_uses_any_more_is_forgotten_and_other_repositories_are_left_alone() -> None:
    elsewhere = {"registry.example/shop/orders:1.0.0-cccccccccccc": OTHER}
    known = {"shop/orders:0.9.0-dddddddddddd": OTHER, REFERENCES["catalog"]: OTHER, **elsewhere}
    found = digests.kept(known, {REFERENCES["orders"]: ONE}, REFERENCES.values())
    assert found == {REFERENCES["orders"]: ONE, REFERENCES["catalog"]: OTHER, **elsewhere}


def test_what_was_written_down_is_read_again(tmp_path: Path) -> None:
    assert read_digests(tmp_path / digests.FILE) == {}
    write(tmp_path, {digests.FILE: digests.text({REFERENCES["orders"]: ONE})})
    assert read_digests(tmp_path / digests.FILE) == {REFERENCES["orders"]: ONE}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, {digests.FILE: "["})
    with pytest.raises(SystemMistake, match="can't be read") as refused:
        read_digests(tmp_path / digests.FILE)
    assert refused.value.where == str(tmp_path / digests.FILE)


def test_when_all_were_pushed_every_container_of_every_overlay_bears_a_digest(tmp_path: Path) -> None:
    plan = with_canary(shop_plan(), "orders")
    names = told(plan).images
    written(plan, tmp_path)
    write(tmp_path, render(plan, replace(told(plan), images=digests.pinned(names, dict.fromkeys(names.values(), ONE)))))
    for overlay in OVERLAYS:
        for name, template in pods(built(tmp_path, overlay)):
            spec = template["spec"]
            for container in (*spec.get("initContainers", ()), *spec["containers"]):
                assert re.search(r":[^/:]+-[0-9a-f]{12}@sha256:[0-9a-f]{64}$", container["image"]), f"{overlay}: {name}"
