"""Another version of a service beside it, in a running system: who meets it, and that nothing restarts for it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.load import Ask, load
from tests.support.system import RunningSystem, system
from tests.support.waiting import until_sync

NEXT = """

@service.get("/middle/next", public=True)
async def later() -> str:
    return "later"
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with system("pair", tmp_path_factory.mktemp("canary") / "pair") as pair:
        newer = pair.folder / "services" / "middle-next"
        shutil.copytree(pair.folder / "services" / "middle", newer)
        code = newer / "middle" / "service.py"
        code.write_text(code.read_text() + NEXT)
        manifest = pair.folder / "atoll.toml"
        manifest.write_text(manifest.read_text() + '\n[services.middle.canary]\nfolder = "services/middle-next"\n')
        pair.up()
        yield pair


def pid(pair: RunningSystem, name: str) -> int:
    return int(pair.processes()[name]["pid"])


def answering(http: httpx.Client) -> int:
    return int(http.get("/middle/process").json()["pid"])


def confirmed(pair: RunningSystem) -> dict[str, int]:
    """What Envoy keeps to, by service."""
    return dict(json.loads((pair.folder / ".atoll/gateway/applied.json").read_text())["canaries"])


def test_it_runs_beside_the_service_and_meets_nobody_until_it_is_given_a_share(pair: RunningSystem) -> None:
    with pair.client() as http:
        assert {answering(http) for _ in range(10)} == {pid(pair, "middle-1")}
    assert pair.processes()["middle-canary-1"]["service"] == "middle"


def test_an_operation_that_it_alone_offers_is_its_own(pair: RunningSystem) -> None:
    with pair.client() as http:
        assert http.get("/middle/next").json() == "later"
        assert "/middle/next" in http.get("/openapi.json").json()["paths"]


def test_its_share_changes_under_load_without_a_restart_and_without_a_failed_request(pair: RunningSystem) -> None:
    before = {name: one["pid"] for name, one in pair.processes().items()}
    with load(pair.url, lambda: Ask("GET", "/middle/process"), {}, clients=4) as answers, pair.client() as http:
        for weight, name in ((100, "middle-canary-1"), (0, "middle-1"), (100, "middle-canary-1")):
            said = json.loads(pair.must("canary", "middle", "--weight", str(weight), "--json"))
            assert said == {"service": "middle", "weight": weight}
            assert confirmed(pair) == ({"middle": weight} if weight else {})
            until_sync(lambda name=name: answering(http) == before[name], 20)  # type: ignore[misc]
            until_sync(answers.more(20), 20)
    assert answers.unexpected == []
    assert {name: one["pid"] for name, one in pair.processes().items()} == before


def test_a_share_that_the_gateway_does_not_confirm_is_no_success(pair: RunningSystem) -> None:
    pair.kill("gateway", signal.SIGSTOP)
    try:
        refused = pair.run("canary", "middle", "--weight", "7")
    finally:
        pair.kill("gateway", signal.SIGCONT)

    assert refused.returncode == 1
    assert "has not confirmed yet that 7 of a hundred clients" in refused.stderr
    until_sync(lambda: confirmed(pair) == {"middle": 7}, 30)
    pair.must("canary", "middle", "--weight", "0")


def test_the_service_restarts_without_it(pair: RunningSystem) -> None:
    before = pid(pair, "middle-canary-1")
    pair.must("restart", "middle")

    assert pid(pair, "middle-canary-1") == before


def test_a_service_without_one_says_how_to_have_one(pair: RunningSystem) -> None:
    refused = pair.run("canary", "left", "--weight", "5")

    assert refused.returncode == 1
    assert "left has no canary" in refused.stderr
    assert "[services.left.canary]" in refused.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('service.get("/right/x", id="x", public=True)(process)', "which belongs to right by its prefix /right"),
        ("service.database = 'postgresql'", "the canary of middle has postgresql database, middle none"),
    ],
)
def test_a_version_that_cannot_run_beside_it_keeps_the_system_from_starting(
    pair: RunningSystem, tmp_path: Path, change: str, said: str
) -> None:
    with system("pair", tmp_path / "pair") as other:
        shutil.copytree(pair.folder / "services" / "middle-next", other.folder / "services" / "middle-next")
        shutil.copy(pair.folder / "atoll.toml", other.folder / "atoll.toml")
        code = other.folder / "services" / "middle-next" / "middle" / "service.py"
        code.write_text(f"{code.read_text()}\n{change}\n")
        refused = other.run("up", "--detach", "--isolated")

    assert refused.returncode == 1
    assert said in refused.stderr
