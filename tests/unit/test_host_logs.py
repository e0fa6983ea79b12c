"""Log files that a process goes on writing while they are set aside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from atoll.host import logs

LIMIT = 1_000
_WRITER = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)\n"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LIMIT_BYTES", LIMIT)


def test_a_full_log_is_emptied_under_its_process_which_goes_on_at_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "orders-1.log"
    with logs.open_log(path) as log:
        writer = subprocess.Popen([sys.executable, "-c", _WRITER], stdin=subprocess.PIPE, stdout=log, text=True)
    assert writer.stdin is not None
    writer.stdin.write("x" * LIMIT + "\n")
    writer.stdin.flush()
    while not logs.set_aside(tmp_path):
        assert writer.poll() is None
    writer.stdin.write("later\n")
    writer.stdin.close()
    assert writer.wait(10) == 0
    assert path.read_text() == "later\n"
    assert (tmp_path / "orders-1.log.1").read_text() == "x" * LIMIT + "\n"
    assert (tmp_path / "orders-1.log.1").stat().st_mode & 0o077 == 0


def test_a_log_that_is_not_full_stays(tmp_path: Path) -> None:
    (tmp_path / "orders-1.log").write_text("x" * LIMIT)
    assert logs.set_aside(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["orders-1.log"]


def test_what_was_set_aside_before_goes(tmp_path: Path) -> None:
    path = tmp_path / "orders.postgresql.log"
    for text in ("first", "second"):
        path.write_text(text * LIMIT)
        assert logs.set_aside(tmp_path) == [path]
    assert (tmp_path / "orders.postgresql.log.1").read_text() == "second" * LIMIT
    assert path.read_text() == ""


def test_the_end_of_a_log_that_was_emptied_since_is_found(tmp_path: Path) -> None:
    path = tmp_path / "orders-1.log"
    path.write_text("early\nfirst\nlast\n")
    assert logs.tail(path, len("early\n")) == ["first", "last"]
    assert logs.tail(path, 10 * LIMIT) == ["early", "first", "last"]
