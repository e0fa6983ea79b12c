"""Another version of a service beside it, in a running system: who meets it, and that nothing restarts for it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
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
    with running(tmp_path_factory.mktemp("canary")) as pair:
        yield pair


@pytest.fixture
def ending(tmp_path: Path) -> Iterator[RunningSystem]:
    """One whose canary a test may end."""
    with running(tmp_path) as pair:
        yield pair


@contextmanager
def running(folder: Path) -> Iterator[RunningSystem]:
    with system("pair", folder / "pair") as pair:
        newer = pair.folder / "services" / "middle-next"
        shutil.copytree(pair.folder / "services" / "middle", newer)
        code = newer / "middle" / "service.py"
        code.write_text(code.read_text() + NEXT)
        manifest = pair.folder / "atoll.toml"
        canary = '\n[services.middle.canary]\nfolder = "services/middle-next"\n'
        manifest.write_text(manifest.read_text() + canary)
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


def both() -> Callable[[], Ask]:
    """What either version offers, by turns; a POST is never sent twice."""
    asks = cycle([Ask("GET", "/middle/process"), Ask("POST", "/middle/process", 201)])
    return lambda: next(asks)


@pytest.mark.parametrize("weight", [0, 100])
def test_its_version_becomes_the_services_under_load_without_a_failed_request(ending: RunningSystem, weight: int) -> None:
    """Whoever met the service, and whoever met the canary: all of this load has one address."""
    ending.must("scale", "middle=2")
    ending.must("canary", "middle", "--weight", str(weight))
    with load(ending.url, both(), {}, clients=4) as answers:
        until_sync(answers.more(40), 20)
        said = json.loads(ending.must("canary", "middle", "--promote", "--json"))
        until_sync(answers.more(40), 20)

    assert said == {"service": "middle", "promoted": str(ending.folder / "services" / "middle-next")}
    assert answers.unexpected == []
    names = [name for name, one in ending.processes().items() if one["service"] == "middle"]
    assert (len(names), [name for name in names if "canary" in name], confirmed(ending)) == (2, [], {})
    with ending.client() as http:
        assert {http.get("/middle/next").json() for _ in range(10)} == {"later"}
        ending.must("restart", "middle")
        assert http.get("/middle/next").json() == "later", "it is the service's version from now on"
    assert "middle has no canary now" in ending.run("canary", "middle", "--weight", "5").stderr


def test_it_is_given_up_under_load_without_a_failed_request(ending: RunningSystem) -> None:
    ending.must("canary", "middle", "--weight", "100")
    with load(ending.url, both(), {}, clients=4) as answers:
        until_sync(answers.more(40), 20)
        said = json.loads(ending.must("canary", "middle", "--abort", "--json"))
        until_sync(answers.more(40), 20)

    assert said == {"service": "middle", "aborted": True}
    assert answers.unexpected == []
    assert "middle-canary-1" not in ending.processes()
    with ending.client() as http:
        until_sync(lambda: http.get("/middle/next").status_code == 404, 10)
    assert "middle has no canary now" in ending.run("canary", "middle", "--promote").stderr


@pytest.mark.parametrize("how", ["--abort", "--promote"])
def test_it_does_not_go_before_the_gateway_has_confirmed_that_nobody_is_sent_to_it(ending: RunningSystem, how: str) -> None:
    """Where it goes while all clients are at it, each of them is told 503."""
    ending.must("canary", "middle", "--weight", "100")
    with load(ending.url, lambda: Ask("GET", "/middle/process"), {}, clients=4) as answers:
        ending.kill("gateway", signal.SIGSTOP)
        try:
            refused = ending.run("canary", "middle", how)
            until_sync(answers.more(40), 20)
            assert "middle-canary-1" in ending.processes()
        finally:
            ending.kill("gateway", signal.SIGCONT)
        until_sync(lambda: confirmed(ending) == {}, 30)
        ending.must("canary", "middle", how)
        until_sync(answers.more(40), 20)

    assert (refused.returncode, "has not confirmed yet that 0 of a hundred" in refused.stderr) == (1, True)
    assert answers.unexpected == []
    assert "middle-canary-1" not in ending.processes()


def test_a_version_that_does_not_start_in_the_services_place_leaves_the_service_as_it_is(ending: RunningSystem) -> None:
    """The canary runs already; its files were broken since."""
    before = pid(ending, "middle-1")
    code = ending.folder / "services" / "middle-next" / "middle" / "service.py"
    code.write_text(code.read_text() + "\nraise SystemExit('broken since')\n")
    with load(ending.url, both(), {}, clients=2) as answers:
        refused = ending.run("canary", "middle", "--promote")
        until_sync(answers.more(10), 20)

    assert refused.returncode == 1
    assert "middle-2" in refused.stderr
    assert answers.unexpected == []
    assert (pid(ending, "middle-1"), "middle-canary-1" in ending.processes()) == (before, True)
    ending.must("canary", "middle", "--weight", "1")


def test_one_thing_at_a_time_can_be_asked_of_it(pair: RunningSystem) -> None:
    for options in ((), ("--promote", "--abort"), ("--weight", "1", "--abort")):
        refused = pair.run("canary", "middle", *options)
        assert (refused.returncode, "one thing at a time" in refused.stderr) == (1, True)


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
