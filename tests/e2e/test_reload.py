"""`up --reload`: what is edited takes effect, what can't run does not, and nobody else is touched."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.load import Ask, load
from tests.support.system import RunningSystem, running
from tests.support.waiting import until_sync

OWN_EVENTS = """

echoes: list[str] = []


@service.on("left.note_taken")
async def echo(event: NoteTaken) -> None:
    echoes.append(event.text)


@service.get("/left/echoes", public=True)
async def echoed() -> list[str]:
    return echoes
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with running("pair", tmp_path_factory.mktemp("reload") / "pair", "--reload") as pair:
        yield pair


def code_of(pair: RunningSystem, service: str) -> Path:
    return pair.folder / "services" / service / service / "service.py"


def pids(pair: RunningSystem) -> dict[str, int]:
    return {name: process["pid"] for name, process in pair.processes().items()}


def told(pair: RunningSystem) -> str:
    return (pair.folder / ".atoll" / "logs" / "host.log").read_text()


def test_a_service_that_subscribes_to_its_own_events_while_it_runs_hears_them(pair: RunningSystem) -> None:
    before, code = pids(pair), code_of(pair, "left")
    code.write_text(code.read_text() + OWN_EVENTS)
    until_sync(lambda: "left is reloaded" in told(pair), 30)
    with pair.client("ann") as http:
        assert http.post("/left/notes", json={"text": "to myself"}).status_code == 201
        until_sync(lambda: http.get("/left/echoes").json() == ["to myself"], 20)
    after = pids(pair)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {"left-1", "left-2"}


def test_a_syntax_error_keeps_the_old_version_serving_until_it_is_mended(pair: RunningSystem) -> None:
    before, code = pids(pair), code_of(pair, "middle")
    good = code.read_text()
    with load(pair.url, lambda: Ask("GET", "/middle/process"), {}, clients=1) as answers:
        code.write_text(good.replace("async def process()", "async def process("))
        until_sync(lambda: "middle is not reloaded" in told(pair), 30)
        line = good.splitlines().index("async def process() -> dict[str, int]:") + 1
        (report,) = [text for text in told(pair).splitlines() if "SyntaxError" in text]
        assert f"{code}:{line}: middle.service can't be imported: SyntaxError: " in report
        until_sync(answers.more(10))
        assert pids(pair) == before
        code.write_text(good.replace("async def process()", "async def renamed_process()"))
        until_sync(lambda: "middle is reloaded" in told(pair), 30)
        until_sync(answers.more(10))
    assert answers.unexpected == []
    after = pids(pair)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {"middle-1", "middle-2"}


MINE = """

@service.get("/right/mine", public=True)
async def mine() -> int:
    return 1
"""


def written(pair: RunningSystem) -> dict[str, bytes]:
    """Accepted contracts, and what Envoy and the controller go by. (`.atoll/contracts` is what the code says, whoever may.)"""
    folders = (pair.folder / "contracts", pair.folder / ".atoll" / "gateway")
    files = (file for folder in folders if folder.exists() for file in folder.rglob("*") if file.is_file())
    return {str(file): file.read_bytes() for file in files if file.name not in ("access.log", ".draft")}


def nobody_is_new(pair: RunningSystem) -> bool:
    """What the gateway goes by changes once more, when replicas have been there for a while."""
    told = json.loads((pair.folder / ".atoll" / "gateway" / "inputs.json").read_text())
    return not told["fresh"]


def test_a_path_of_somebody_else_changes_nothing_anywhere(pair: RunningSystem) -> None:
    """Reload and `contract accept` both refuse it, and say whose it is and where that stands. Everybody is served meanwhile."""
    until_sync(lambda: nobody_is_new(pair), 30, "all share the requests")
    before, files, code = pids(pair), written(pair), code_of(pair, "middle")
    good = code.read_text()
    asks = itertools.cycle((Ask("GET", "/middle/process"), Ask("GET", "/right/copies"), Ask("GET", "/right/mine", 404)))
    with load(pair.url, lambda: next(asks), {}) as answers:
        code.write_text(good + MINE)
        until_sync(lambda: "middle offers GET /right/mine" in told(pair), 30)
        until_sync(answers.more(30))
        refused = pair.run("contract", "accept", "middle")
        after = written(pair)
        code.write_text(good)

    line = (pair.folder / "atoll.toml").read_text().splitlines().index("[services.right]") + 1
    both = f"outside its prefix /middle, which belongs to right by its prefix /right ({pair.folder}/atoll.toml:{line})"
    assert both in told(pair)
    assert (refused.returncode, both in refused.stderr) == (1, True)
    assert answers.unexpected == []
    assert after == files
    assert pids(pair) == before


def test_a_system_with_a_path_of_somebody_else_does_not_start_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with running("pair", tmp_path / "pair") as pair:
        pair.down()
        files, code = written(pair), code_of(pair, "middle")
        good = code.read_text()
        code.write_text(good + MINE)
        refused = pair.run("up", "--detach", "--isolated")
        after, state = written(pair), pair.folder / ".atoll" / "state.json"

        assert refused.returncode == 1
        assert "middle offers GET /right/mine" in refused.stderr
        assert "outside its prefix /middle, which belongs to right by its prefix /right (" in refused.stderr
        assert f"{pair.folder}/atoll.toml:" in refused.stderr
        assert (after, state.exists()) == (files, False)
        assert "nothing was running" in pair.must("down")
        code.write_text(good)
        pair.up()
        with pair.client() as http:
            assert (http.get("/middle/process").status_code, http.get("/right/mine").status_code) == (200, 404)


NUMBERED = """

@service.get("/right/n{}", public=True)
async def numbered() -> int:
    return 0
"""


def test_two_edits_of_one_size_within_one_second_both_count(pair: RunningSystem) -> None:
    code, second = code_of(pair, "right"), 1_700_000_000.0
    good, draft = code.read_text(), code.with_name(".draft")

    def edited(number: int) -> bool:
        return http.get(f"/right/n{number}").status_code == 200

    with pair.client() as http:
        for number in (1, 2):
            draft.write_text(good + NUMBERED.format(number))
            os.utime(draft, (second, second))
            draft.replace(code)
            until_sync(partial(edited, number), 30)
    code.write_text(good)
