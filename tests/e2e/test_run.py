"""`atoll run NAME`: a service in a terminal or a debugger has its place in the system, and may stand at a breakpoint."""

from __future__ import annotations

import itertools
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from atoll.system.budgets import BUDGETS
from tests.support.load import Ask, load
from tests.support.system import RunningSystem, running, system
from tests.support.waiting import until_sync

PAUSE_S = BUDGETS.lease_s + 2


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with running("pair", tmp_path_factory.mktemp("run") / "pair") as pair:
        yield pair


@contextmanager
def foreground(pair: RunningSystem, service: str) -> Iterator[int]:
    """`atoll run service`, once it has taken over from the supervised replicas. Gives its pid."""
    log = pair.folder / "run.log"
    with log.open("wb") as out:
        ours = subprocess.Popen(pair.command("run", service), stdout=out, stderr=out, start_new_session=True)
    try:
        until_sync(lambda: not pair.replicas(service), 30, f"{service} runs in the foreground: {log.read_text()}")
        yield ours.pid
    finally:
        os.kill(ours.pid, signal.SIGCONT)
        ours.send_signal(signal.SIGINT)
        assert ours.wait(20) == 0
    until_sync(lambda: pair.replicas(service), 20)


def copies(pair: RunningSystem) -> dict[str, int]:
    with pair.client() as http:
        answer = http.get("/right/copies")
        return {copy["text"]: copy["times"] for copy in answer.json()} if answer.status_code == 200 else {}


def test_it_has_the_database_settings_credentials_and_routes_that_it_has_as_a_supervised_one(pair: RunningSystem) -> None:
    with pair.client("ann") as http:
        assert http.post("/left/notes", json={"text": "early"}).status_code == 201
        until_sync(lambda: copies(pair).get("early") == 1)
        with foreground(pair, "right"):
            assert http.post("/left/notes", json={"text": "late"}).status_code == 201
            until_sync(lambda: copies(pair).get("late") == 1)
            assert copies(pair)["early"] == 1
            assert http.get("/right/greeting").json() == {"greeting": "hello"}
        until_sync(lambda: copies(pair).get("early") == 1)


def test_a_process_at_a_breakpoint_for_longer_than_its_lease_loses_nothing(pair: RunningSystem) -> None:
    numbers = itertools.count()
    with pair.client("ann") as http, foreground(pair, "right") as pid:
        with load(pair.url, lambda: Ask("POST", "/left/notes", 201, {"text": f"n{next(numbers)}"}), http.headers) as answers:
            until_sync(answers.more(10))
            os.kill(pid, signal.SIGSTOP)
            since_s = time.monotonic()
            until_sync(lambda: answers.cover(since_s, PAUSE_S), 30)
            os.kill(pid, signal.SIGCONT)
            until_sync(answers.more(10))
        assert answers.unexpected == []
        wanted = {str((one.ask.json or {})["text"]): 1 for one in answers.all}
        until_sync(lambda: wanted.keys() <= copies(pair).keys(), 20)
        assert {text: times for text, times in copies(pair).items() if text in wanted} == wanted


_BREAKPOINT = """

@service.get("/middle/stop", public=True)
async def stop() -> dict[str, str]:
    word = "as written"
    breakpoint()
    return {"word": word}
"""


class Terminal:
    """The other end of a process's terminal."""

    def __init__(self, end: int) -> None:
        self._end = end
        self.shown = ""

    def type(self, text: str, answer: str) -> None:
        """Returns once `answer` is shown."""
        os.write(self._end, text.encode())
        self.until(answer)

    def until(self, answer: str) -> None:
        before = len(self.shown)

        def seen() -> bool:
            while select.select([self._end], [], [], 0)[0]:
                self.shown += os.read(self._end, 65_536).decode()
            return answer in self.shown[before:]

        until_sync(seen, 20, f"{answer!r} on the terminal")


@contextmanager
def terminal(pair: RunningSystem, service: str) -> Iterator[Terminal]:
    """`atoll run service` in a terminal of its own."""
    ours, its = pty.openpty()
    process = subprocess.Popen(pair.command("run", service), stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    try:
        yield Terminal(ours)
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(20)
        os.close(ours)
    assert code == 0


def test_a_debugger_s_prompt_is_answered_in_the_terminal_while_requests_wait(tmp_path: Path) -> None:
    with system("pair", tmp_path / "pair") as pair, ThreadPoolExecutor() as pool:
        code = pair.folder / "services" / "middle" / "middle" / "service.py"
        code.write_text(code.read_text() + _BREAKPOINT)
        pair.up()
        with terminal(pair, "middle") as typing, pair.client() as http:
            until_sync(lambda: not pair.replicas("middle"), 20)
            stopped = pool.submit(http.get, "/middle/stop")
            typing.until("(Pdb)")
            waiting = pool.submit(http.get, "/middle/process")
            typing.type("word\n", "'as written'")
            typing.type("word = 'as typed'\n", "(Pdb)")
            assert not stopped.done()
            assert not waiting.done()
            typing.type("c\n", "c")
            assert stopped.result(20).json() == {"word": "as typed"}
            assert waiting.result(20).status_code == 200
        until_sync(lambda: pair.replicas("middle"), 20)
