"""The reaper: what is recorded with it ends with the host, also when a reaper was killed before."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from atoll.host.guard import Reaper
from atoll.host.sessions import Session, kill_sessions, members, start_time
from tests.support.waiting import until_sync


@pytest.fixture
def session() -> Iterator[Session]:
    """A process that has left another one running."""
    leader = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True)
    found = (leader.pid, start_time(leader.pid))
    until_sync(lambda: len(members([found])) == 2, what="both run")
    yield found
    kill_sessions([found])
    leader.wait()


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    found = Reaper()
    yield found
    found.close()


def killed(reaper: Reaper) -> None:
    os.kill(reaper.pid, signal.SIGKILL)
    until_sync(reaper.revived, what="another one has its place")


def test_what_is_recorded_ends_when_the_host_is_gone(session: Session) -> None:
    reaper = Reaper()
    reaper.record(session)

    reaper.close()  # what the host's death does to the pipe

    assert members([session]) == []


def test_one_that_was_killed_is_replaced_and_the_next_one_knows_what_it_knew(session: Session) -> None:
    reaper = Reaper()
    reaper.record(session)
    former = reaper.pid
    killed(reaper)
    assert reaper.pid != former

    reaper.close()

    assert members([session]) == []


def test_what_was_forgotten_stays_forgotten(session: Session) -> None:
    reaper = Reaper()
    reaper.record(session)
    reaper.forget(session)
    killed(reaper)

    reaper.close()

    assert len(members([session])) == 2


def test_one_that_lives_is_left_alone(reaper: Reaper) -> None:
    former = reaper.pid

    assert not reaper.revived()
    assert reaper.pid == former
