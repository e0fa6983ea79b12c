"""The host: comes up, keeps up, goes without a trace, and says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from atoll.host import lock
from tests.support.interpreters import environment, reachable_python
from tests.support.ports import free_port
from tests.support.system import RunningSystem, running, system
from tests.support.waiting import until_sync

NOBODY = 65534


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """A running pair that a test leaves as it found it."""
    with running("pair", tmp_path_factory.mktemp("shared") / "pair") as pair:
        yield pair


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[RunningSystem]:
    """A pair of a test's own, not started."""
    with system("pair", tmp_path / "pair") as copy:
        yield copy


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def take_note(pair: RunningSystem, text: str) -> None:
    with pair.client("ann") as http:
        assert http.post("/left/notes", json={"text": text}).status_code == 201


def copies(pair: RunningSystem) -> dict[str, int]:
    """How often each note has arrived; none while the gateway has not found its replica healthy again."""
    with pair.client() as http:
        answer = http.get("/right/copies")
        return {copy["text"]: copy["times"] for copy in answer.json()} if answer.status_code == 200 else {}


@contextmanager
def load(url: str, path: str) -> Iterator[Counter[str]]:
    """Requests as fast as one client can, until the block ends. What they gave, by status or error, once it has."""
    seen: Counter[str] = Counter()
    over = threading.Event()

    def run() -> None:
        with httpx.Client(base_url=url, timeout=15) as http:
            while not over.is_set():
                for method in ("GET", "POST"):
                    try:
                        seen[str(http.request(method, path).status_code)] += 1
                    except httpx.HTTPError as error:
                        seen[repr(error)] += 1

    clients = [threading.Thread(target=run) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        yield seen
    finally:
        over.set()
        for client in clients:
            client.join()


# up and down


def test_a_system_comes_up_settled_and_an_event_reaches_its_subscriber(shared: RunningSystem) -> None:
    take_note(shared, "first")
    until_sync(lambda: copies(shared).get("first") == 1)


def test_up_says_what_runs_where(shared: RunningSystem) -> None:
    state = json.loads(shared.must("ps", "--json"))
    assert state["ready"]
    assert {one["name"] for one in state["processes"]} >= {"nats", "envoy", "gateway", "auth-1", "left-1", "right-1"}
    assert all(one["state"] == "ready" for one in state["processes"])


def test_down_leaves_no_process_no_port_and_no_lock(pair: RunningSystem) -> None:
    pair.up()
    state = pair.state
    pair.down()
    assert pair.alive(state) == []
    assert not [one["port"] for one in state["processes"] if one["port"] and listens(one["port"])]
    assert not (pair.folder / ".atoll" / "lock").exists()
    assert not (pair.folder / ".atoll" / "control.sock").exists()
    assert pair.must("down") == "nothing was running\n"
    (pair.folder / ".atoll" / "data" / "note").write_text("kept")
    assert pair.must("down", "--delete-data") == f"nothing was running\ndeleted {pair.folder}/.atoll\n"
    assert pair.must("down", "--delete-data") == "nothing was running\n"


SLOW = """

import asyncio
from pathlib import Path


@service.get("/middle/slow", public=True)
async def slow() -> str:
    Path("entered").touch()
    return await asyncio.to_thread(Path("answer").read_text)
"""


def test_what_is_in_flight_at_the_end_is_answered_whole_and_nobody_new_comes(pair: RunningSystem) -> None:
    """The service answers when the gateway takes no connection any more."""
    folder = pair.folder / "services" / "middle"
    code = folder / "middle" / "service.py"
    code.write_text(code.read_text() + SLOW)
    pair.up()
    os.mkfifo(folder / "answer")  # who reads it waits for who writes
    state, port = pair.state, httpx.URL(pair.url).port or 0
    with pair.client() as waiting, pair.client() as asking, ThreadPoolExecutor() as threads:
        assert "connection" not in asking.get("/middle/process").headers
        answer = threads.submit(waiting.get, "/middle/slow")
        until_sync((folder / "entered").exists)
        down = threads.submit(pair.run, "down")
        until_sync(lambda: not listens(port))
        last = asking.get("/middle/process")
        (folder / "answer").write_text("whole")

        assert (answer.result().status_code, answer.result().json()) == (200, "whole")
        assert (answer.result().headers["connection"], last.headers["connection"]) == ("close", "close")
        assert (down.result().returncode, down.result().stderr) == (0, "")
    assert pair.alive(state) == []
    assert "is killed" not in (pair.folder / ".atoll" / "logs" / "host.log").read_text()


ENDLESS = """

import asyncio


@service.get("/middle/endless", public=True, timeout_s=600)
async def endless() -> None:
    open("entered", "w").close()
    await asyncio.Event().wait()
"""


def test_what_does_not_finish_is_told_so_and_down_says_that_it_takes_long(pair: RunningSystem) -> None:
    folder = pair.folder / "services" / "middle"
    code = folder / "middle" / "service.py"
    code.write_text(code.read_text() + ENDLESS)
    pair.up()
    with httpx.Client(base_url=pair.url, timeout=60) as client, ThreadPoolExecutor() as threads:
        answer = threads.submit(client.get, "/middle/endless")
        until_sync((folder / "entered").exists)
        told = pair.must("down")
        assert (answer.result().status_code, answer.result().json()["code"]) == (503, "stopped")
    assert told.startswith("still stopping: what is in hand is finished first")
    assert "still stopping: middle-1\n" in (pair.folder / ".atoll" / "logs" / "host.log").read_text()


WAITING = """

import asyncio


@service.on_start
async def begin() -> None:
    await asyncio.to_thread(open, "begin")
"""


def test_up_says_what_it_still_waits_for(pair: RunningSystem) -> None:
    folder = pair.folder / "services" / "middle"
    code = folder / "middle" / "service.py"
    code.write_text(code.read_text() + WAITING)
    os.mkfifo(folder / "begin")  # who opens it waits for who writes
    command = pair.command("up", "--detach", "--isolated")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr
        assert next(line for line in up.stderr if "still" in line) == "still starting: middle-1\n"
        (folder / "begin").write_text("now")
        assert up.wait(timeout=60) == 0


def test_a_foreground_system_ends_with_ctrl_c(pair: RunningSystem) -> None:
    host = subprocess.Popen(pair.command("up", "--isolated"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert host.stdout is not None
    for line in host.stdout:
        if "Ctrl-C" in line:
            break
    state = pair.state
    host.send_signal(signal.SIGINT)
    with host.stdout:
        assert host.wait(30) == 0
    assert pair.alive(state) == []


def test_after_kill_9_of_the_host_nothing_runs_and_up_has_the_same_data(pair: RunningSystem) -> None:
    pair.up()
    take_note(pair, "kept")
    until_sync(lambda: copies(pair) == {"kept": 1})
    pair.kill_everything()
    pair.up()
    take_note(pair, "later")
    until_sync(lambda: copies(pair) == {"kept": 1, "later": 1})


def test_leftovers_of_a_killed_host_and_reaper_are_gone_after_down(pair: RunningSystem) -> None:
    pair.up()
    state = pair.state
    for pid in (state["reaper"][0], state["pid"]):
        os.kill(pid, signal.SIGKILL)
    until_sync(lambda: lock.holder(pair.folder / ".atoll" / "lock") is None)
    pair.down()
    assert pair.alive(state) == []


def test_a_reaper_that_is_killed_is_replaced_and_the_next_one_does_its_work(pair: RunningSystem) -> None:
    pair.up()
    former = pair.state["reaper"]
    os.kill(former[0], signal.SIGKILL)
    until_sync(lambda: pair.state["reaper"] != former, 10, "another reaper is recorded")
    state = pair.state
    assert all(one["state"] == "ready" for one in state["processes"])

    os.kill(state["pid"], signal.SIGKILL)

    until_sync(lambda: pair.alive(state) == [], 20, "the new reaper has ended what the old one was told of")


def test_a_second_host_is_refused_and_the_first_goes_on(shared: RunningSystem) -> None:
    refused = shared.run("up", "--detach")
    assert refused.returncode == 1
    assert f"is running already (host pid {shared.state['pid']})" in refused.stderr
    with shared.client() as http:
        assert http.get("/left/notes").status_code == 200


def test_two_copies_run_side_by_side(shared: RunningSystem, pair: RunningSystem) -> None:
    pair.up()
    take_note(pair, "mine")
    until_sync(lambda: copies(pair) == {"mine": 1})
    assert "mine" not in copies(shared)
    own, other = ({one["port"] for one in copy.state["processes"] if one["port"]} for copy in (pair, shared))
    assert not own & other


def test_ports_are_the_same_at_the_next_start(pair: RunningSystem) -> None:
    first = {one["name"]: one["port"] for one in pair.up()["processes"]}
    pair.down()
    assert {one["name"]: one["port"] for one in pair.up()["processes"]} == first


# what dies


def test_a_killed_service_comes_back_in_its_slot(shared: RunningSystem) -> None:
    former = shared.processes()["right-1"]
    shared.kill("right-1")
    now = shared.until_ready("right-1", not_pid=former["pid"])
    assert now["port"] == former["port"]
    assert now["restarts"] == former["restarts"] + 1
    assert "right-1 was killed by SIGKILL" in (shared.folder / ".atoll" / "logs" / "host.log").read_text()


@pytest.mark.parametrize("name", ["nats", "envoy", "gateway", "auth-1"])
def test_a_killed_engine_comes_back_and_the_system_works(shared: RunningSystem, name: str) -> None:
    former = shared.processes()[name]["pid"]
    shared.kill(name)
    shared.until_ready(name, not_pid=former)
    text = f"after {name}"

    def works() -> bool:
        try:
            take_note(shared, text)
        except (AssertionError, httpx.HTTPError):
            return False
        return True

    until_sync(works, 20)
    until_sync(lambda: copies(shared).get(text, 0) == 1, 20)


# replicas


def test_scale_adds_and_removes_replicas(shared: RunningSystem) -> None:
    shared.must("scale", "middle=3")
    assert len(shared.replicas("middle")) == 3
    with shared.client() as http:
        until_sync(lambda: len({http.get("/middle/process").json()["pid"] for _ in range(30)}) == 3)
    shared.must("scale", "middle=1")
    assert len(shared.replicas("middle")) == 1
    with shared.client() as http:
        assert {http.get("/middle/process").status_code for _ in range(20)} == {200}


def test_a_service_on_sqlite_is_not_scaled(shared: RunningSystem) -> None:
    refused = shared.run("scale", "left=2")
    assert refused.returncode == 1
    assert "SQLite" in refused.stderr


def test_a_restart_under_load_fails_no_request(shared: RunningSystem) -> None:
    former = {shared.processes()[name]["pid"] for name in shared.replicas("middle")}
    with load(shared.url, "/middle/process") as seen:
        until_sync(lambda: sum(seen.values()) > 50)
        shared.must("restart", "middle")
        shared.must("restart", "middle")
        enough = sum(seen.values()) + 50
        until_sync(lambda: sum(seen.values()) > enough)
    assert set(seen) == {"200", "201"}
    assert former.isdisjoint(shared.processes()[name]["pid"] for name in shared.replicas("middle"))


# run NAME


def test_run_takes_a_service_over_and_gives_it_back(shared: RunningSystem) -> None:
    ours = subprocess.Popen(
        shared.command("run", "middle"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        with shared.client() as http:
            until_sync(lambda: http.get("/middle/process").json()["pid"] == ours.pid, 20)
            until_sync(lambda: shared.replicas("middle") == [], 20)
            assert http.get("/middle/process").json()["pid"] == ours.pid
        ours.send_signal(signal.SIGINT)
        assert ours.wait(20) == 0
        until_sync(lambda: len(shared.replicas("middle")) == 1, 20)
        with shared.client() as http:
            until_sync(lambda: http.get("/middle/process").status_code == 200, 20)
    finally:
        ours.kill()
        assert ours.stdout is not None
        ours.stdout.close()
        ours.wait()


def test_an_excluded_service_runs_in_the_foreground_with_its_own_data(pair: RunningSystem) -> None:
    pair.up("--except", "right")
    assert pair.replicas("right") == []
    take_note(pair, "early")
    ours = subprocess.Popen(
        pair.command("run", "right"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until_sync(lambda: copies(pair) == {"early": 1}, 20)
    finally:
        pair.down()
        assert ours.wait(20) == 0


# mistakes


def test_a_taken_gateway_port_is_named_with_its_holder(pair: RunningSystem) -> None:
    manifest = pair.folder / "atoll.toml"
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        manifest.write_text(manifest.read_text().replace("8180", str(port)))
        refused = pair.run("up", "--detach")
    assert refused.returncode == 1
    assert f"port {port}, the gateway's, is taken by pid {os.getpid()}" in refused.stderr
    assert "--isolated" in refused.stderr
    assert not (pair.folder / ".atoll" / "lock").exists()


def test_a_broken_manifest_is_named_with_its_line(pair: RunningSystem) -> None:
    manifest = pair.folder / "atoll.toml"
    manifest.write_text(manifest.read_text() + "replicass = 2\n[services.right]\n")
    refused = pair.run("up", "--detach")
    assert refused.returncode == 1
    assert f"{manifest}:" in refused.stderr


def test_a_service_that_fails_at_import_is_named_with_file_and_line_and_nothing_runs(pair: RunningSystem) -> None:
    code = pair.folder / "services" / "right" / "right" / "service.py"
    code.write_text("import nowhere_to_be_found\n" + code.read_text())
    refused = pair.run("up", "--detach", "--isolated")
    assert refused.returncode == 1
    assert f"{code}:1" in refused.stderr
    assert "nowhere_to_be_found" in refused.stderr
    assert not (pair.folder / ".atoll" / "state.json").exists()
    assert not (pair.folder / ".atoll" / "lock").exists()


def test_a_service_that_can_not_start_is_named_with_the_end_of_its_log_and_nothing_runs(pair: RunningSystem) -> None:
    manifest = pair.folder / "atoll.toml"
    manifest.write_text(manifest.read_text().replace('greeting = "hello"', 'greting = "hello"'))
    refused = pair.run("up", "--detach", "--isolated")
    assert refused.returncode == 1
    assert "right-1 exited" in refused.stderr
    assert "greeting" in refused.stderr
    assert not (pair.folder / ".atoll" / "state.json").exists()


def test_frozen_refuses_a_contract_that_was_not_accepted(pair: RunningSystem) -> None:
    pair.must("contract", "accept")
    code = pair.folder / "services" / "middle" / "middle" / "service.py"
    code.write_text(code.read_text().replace("/middle/process", "/middle/changed"))
    refused = pair.run("up", "--detach", "--isolated", "--frozen")
    assert refused.returncode == 1
    assert "middle differs from its accepted contract: GET /middle/changed is new, GET /middle/process is" in refused.stderr
    assert "atoll contract accept middle" in refused.stderr
    assert "middle: changed" in pair.must("contract", "accept", "middle")
    pair.up("--frozen")


def test_a_command_without_a_running_system_says_so(pair: RunningSystem) -> None:
    refused = pair.run("restart", "left")
    assert refused.returncode == 1
    assert "not running" in refused.stderr
    assert "atoll up" in refused.stderr


# reload


def test_reload_takes_a_new_operation_and_subscription_and_restarts_nothing_else(pair: RunningSystem) -> None:
    pair.up("--reload")
    before = {name: process["pid"] for name, process in pair.processes().items()}
    code = pair.folder / "services" / "right" / "right" / "service.py"
    code.write_text(code.read_text() + _HEARD)
    with pair.client() as http:
        until_sync(lambda: http.get("/right/heard").status_code == 200, 20)
        take_note(pair, "news")
        until_sync(lambda: http.get("/right/heard").json() == ["NEWS"], 20)
    until_sync(lambda: "right is reloaded" in (pair.folder / ".atoll" / "logs" / "host.log").read_text())
    until_sync(lambda: "right-1" not in pair.processes(), what="the record of right-1 to go")
    after = {name: process["pid"] for name, process in pair.processes().items()}
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {"right-1", "right-2"}


_HEARD = """

class NoteShouted(Struct):
    text: str


heard_texts: list[str] = []


@service.on("left.note_shouted")
async def hear(event: NoteShouted) -> None:
    heard_texts.append(event.text)


@service.get("/right/heard", public=True)
async def heard() -> list[str]:
    return heard_texts
"""


def test_a_reload_that_does_not_import_leaves_the_old_code_running(pair: RunningSystem) -> None:
    pair.up("--reload")
    code = pair.folder / "services" / "middle" / "middle" / "service.py"
    code.write_text(code.read_text() + "\nimport nowhere_to_be_found\n")
    log = pair.folder / ".atoll" / "logs" / "host.log"
    until_sync(lambda: "middle is not reloaded" in log.read_text(), 20)
    assert f"{code}:" in log.read_text()
    with pair.client() as http:
        assert http.get("/middle/process").status_code == 200


# services of every kind


def test_each_service_has_its_own_interpreter_packages_and_path(tmp_path: Path) -> None:
    with system("mixed", tmp_path / "mixed") as mixed:
        environment(mixed.folder / "venvs" / "old", {"colours": 'VERSION = "1.0"\n'})
        environment(mixed.folder / "venvs" / "new", {"colours": 'VERSION = "2.0"\n'})
        mixed.up()
        with mixed.client() as http:
            assert http.get("/old/version").json() == {"version": "1.0"}
            assert http.get("/new/version").json() == {"version": "2.0"}
            assert http.get("/sneak/attempt").json() == {"outcome": "ModuleNotFoundError"}
            hello = http.get("/node/hello", headers={"x-atoll-subject": "somebody"})
            assert hello.json()["path"] == "/node/hello"
            assert hello.json()["subject"] is None
            mixed.must("restart", "node")
            assert http.get("/node/hello").json()["pid"] != hello.json()["pid"]


def test_a_system_of_a_normal_user_works() -> None:
    """As root a copy is run by the user nobody; otherwise every test here shows it."""
    home = Path("/tmp") / f"atoll-nobody-{free_port()}"
    home.mkdir(mode=0o755)
    try:
        python = environment(home / "venv", {}, reachable_python(NOBODY) if os.geteuid() == 0 else sys.executable)
        prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups") if os.geteuid() == 0 else ()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {"HOME": str(home), "USER": "nobody", "PATH": path}
        with system("pair", home / "pair", environment=variables, prefix=prefix, python=str(python)) as pair:
            if os.geteuid() == 0:
                subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(home)], check=True)
            pair.up()
            take_note(pair, "nobody's")
            until_sync(lambda: copies(pair) == {"nobody's": 1})
    finally:
        shutil.rmtree(home)
