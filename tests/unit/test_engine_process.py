"""Engines are found, started, awaited and stopped; what goes wrong is said in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atoll.engines import envoy, nats
from atoll.engines.process import Command, Process, find, tail, version
from atoll.errors import EngineOutage
from tests.support.waiting import until_sync


def executable(path: Path, body: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def command(tmp_path: Path, *arguments: str) -> Command:
    return Command("engine", arguments, tmp_path, tmp_path / "logs" / "engine.log")


async def never() -> bool:
    return False


async def at_once() -> bool:
    return True


def test_an_explicit_path_beats_the_search_path_and_that_beats_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explicit = executable(tmp_path / "mine" / "engine")
    on_path = executable(tmp_path / "bin" / "engine")
    wheel = executable(tmp_path / "wheel" / "engine")
    monkeypatch.setenv("PATH", str(on_path.parent))

    assert find("engine", explicit=explicit, wheel=wheel) == explicit
    assert find("engine", wheel=wheel) == on_path
    monkeypatch.setenv("PATH", "")
    assert find("engine", wheel=wheel) == wheel


def test_a_missing_engine_is_one_clear_line_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineOutage, match="neither on PATH nor in a wheel") as outage:
        find("engine", wheel=tmp_path / "nothing")
    assert "pip install" in outage.value.hint
    with pytest.raises(EngineOutage, match="is not an executable file"):
        find("engine", explicit=tmp_path / "nothing")


def test_nats_server_is_found_and_says_its_version() -> None:
    major, minor, *_ = nats.version(nats.find()).split(".")

    assert (int(major), int(minor)) >= (2, 14)


def test_an_engine_that_can_not_run_says_why(tmp_path: Path) -> None:
    broken = executable(tmp_path / "broken", "echo libssl.so.3 not found >&2; exit 127")
    with pytest.raises(EngineOutage, match=r"libssl\.so\.3 not found"):
        version(broken)
    with pytest.raises(EngineOutage, match="can't be started"):
        Process.start(command(tmp_path, str(tmp_path / "nothing")))


async def test_an_engine_that_dies_before_it_is_ready_shows_the_end_of_its_log(tmp_path: Path) -> None:
    process = Process.start(command(tmp_path, "sh", "-c", "echo port taken; exit 3"))
    with pytest.raises(EngineOutage, match=r"ended with 3:\nport taken"):
        await process.wait_ready(never)


async def test_an_engine_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    process = Process.start(command(tmp_path, "sleep", "60"))
    with pytest.raises(EngineOutage, match=r"not ready after 0\.05 s"):
        await process.wait_ready(never, timeout_s=0.05)
    process.stop()
    assert not process.running


async def test_stopping_ends_the_whole_session_and_can_be_repeated(tmp_path: Path) -> None:
    process = Process.start(command(tmp_path, "sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait"))
    await process.wait_ready(at_once)
    grandchild = int(until_sync(lambda: tail(process.command.log)))

    process.stop(timeout_s=0.05)
    process.stop()

    assert not process.running
    until_sync(lambda: _gone(grandchild))


def _gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_an_engine_gets_its_own_environment_folder_and_user(tmp_path: Path) -> None:
    me = None if os.getuid() else 65534
    arguments = ("sh", "-c", "echo $(pwd) $WHO $(id -u)")
    wanted = Command("engine", arguments, Path("/"), tmp_path / "log", {"WHO": "me"}, me)
    process = Process.start(wanted)

    until_sync(lambda: not process.running)

    assert tail(wanted.log) == f"/ me {os.getuid() if me is None else me}"


@pytest.mark.parametrize(
    ("limit", "workers"), [("100000 100000", 1), ("250000 100000", 3), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_envoy_has_a_worker_for_each_processor_that_its_container_is_granted(
    tmp_path: Path, limit: str, workers: int | None
) -> None:
    """As the kernel tells it: microseconds, and of how many."""
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert envoy.granted_workers(tmp_path) == workers


def test_envoy_has_half_of_the_machine_s_processors_where_nobody_limits_it(tmp_path: Path) -> None:
    assert envoy.granted_workers(tmp_path) is None
    half = str(max(1, (os.cpu_count() or 1) // 2))
    for workers, said in ((None, half), (3, "3")):
        words = envoy.command(Path("envoy"), tmp_path / "bootstrap.json", tmp_path / "log", workers).arguments
        assert words[words.index("--concurrency") + 1] == said
