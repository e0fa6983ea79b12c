"""A path is carved out of a monolith: first its answers are compared, and when they are the same, the new service has it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import DOCS, blocks
from tests.support.system import SYSTEMS, RunningSystem, system
from tests.support.waiting import until_sync


@pytest.fixture(scope="module")
def carved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with system("carved", tmp_path_factory.mktemp("carved") / "system") as copy:
        copy.up()
        yield copy


def _compared(carved: RunningSystem, count: int) -> subprocess.CompletedProcess[str]:
    """`atoll mirror`, once it has counted so many comparisons."""

    def found() -> subprocess.CompletedProcess[str] | None:
        report = json.loads(carved.run("mirror", "--json").stdout)["reviews"] or {"operations": {}}
        compared = sum(one["same"] + one["different"] for one in report["operations"].values())
        return carved.run("mirror") if compared >= count else None

    done = until_sync(found, 30)
    assert done
    return done


def test_clients_get_the_monoliths_answers_while_the_new_service_is_compared(carved: RunningSystem) -> None:
    carved.must("mirror", "reviews", "--reset")
    nothing = carved.run("mirror")
    with carved.client() as http:
        assert http.get("/reviews/mug").json()["by"] == "legacy"
        assert http.get("/basket").json()["by"] == "legacy"
        same = _compared(carved, 1)
        cup = http.get("/reviews/cup")
        different = _compared(carved, 2)

    assert (nothing.returncode, nothing.stdout) == (2, "reviews: nothing compared yet\n")
    assert (same.returncode, different.returncode) == (0, 1), different.stdout
    assert cup.json()["stars"] == 4
    rows = [line.split() for line in different.stdout.splitlines()]
    assert ["GET", "/reviews/{sku}", "2", "1", "1", "0"] in rows
    assert ["legacy", "4"] in rows
    assert ["reviews", "5"] in rows
    assert f"body /stars, 1 times, last {_last(carved)} in request {cup.headers['x-request-id']}" in different.stdout


def _last(carved: RunningSystem) -> str:
    report = json.loads(carved.run("mirror", "--json").stdout)["reviews"]
    return str(report["operations"]["GET /reviews/{sku}"]["differences"][0]["last_seen"])


def test_the_gateway_shows_what_it_mirrors(carved: RunningSystem) -> None:
    shown = carved.must("gateway", "show")

    assert "primary=legacy" in shown
    assert "second=reviews" in shown
    assert "/reviews/{sku}" not in shown
    assert "faults" not in shown
    assert carved.must("gateway", "diff") == ""


def test_before_the_first_start_it_shows_what_it_will_mirror(tmp_path: Path) -> None:
    with system("carved", tmp_path / "system") as copy:
        copy.must("contract", "accept")
        shown = copy.must("gateway", "show")

    assert "has never run here" in shown
    assert "primary=legacy" in shown
    assert "no process compares" not in shown


def test_a_comparing_process_that_dies_is_started_again(carved: RunningSystem) -> None:
    before = carved.until_ready("gateway-mirror")["pid"]
    carved.kill("gateway-mirror")
    with carved.client() as http:
        assert http.get("/reviews/mug").status_code == 200
        carved.until_ready("gateway-mirror", not_pid=before)
        carved.must("mirror", "--reset")
        assert http.get("/reviews/mug").status_code == 200

    assert _compared(carved, 1).returncode == 0


def test_without_its_mirror_the_new_service_has_its_paths(carved: RunningSystem) -> None:
    carved.down()
    manifest = carved.folder / "atoll.toml"
    table = manifest.read_text()
    begin, end = table.index("[gateway.mirrors"), table.index("[services.legacy]")
    manifest.write_text(table[:begin] + table[end:])
    carved.up()

    with carved.client() as http:
        assert http.get("/reviews/cup").json()["stars"] == 5
        assert http.get("/basket").json()["by"] == "legacy"
    assert "gateway-mirror" not in carved.processes()
    assert "has no mirrors" in carved.run("mirror").stderr


def test_the_how_to_shows_the_manifest_that_is_tested_here() -> None:
    shown = next(one.text for one in blocks(DOCS / "how-to" / "compare-two-versions.md", "toml") if "paths" in one.text)
    tested = (SYSTEMS / "carved" / "atoll.toml").read_text()

    assert shown.partition("[gateway.mirrors.reviews]")[2].split("share")[0] in tested
