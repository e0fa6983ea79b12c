"""Whoever blocks the event loop is named in the log."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator

import pytest

from atoll.service.stalls import StallWatch
from tests.support.waiting import until


@pytest.fixture
async def watch() -> AsyncIterator[StallWatch]:
    watch = StallWatch()
    watch.start()
    yield watch
    watch.stop()


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "atoll.service"]


def count_to_the_end_of(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def handler(seconds: float) -> None:
    count_to_the_end_of(seconds)


async def let_it_run(seconds: float) -> None:
    """The loop gets its turn all the while."""
    end_s = time.monotonic() + seconds
    await until(lambda: time.monotonic() > end_s)


async def test_a_stall_is_logged_while_it_lasts_with_the_frame_that_causes_it(
    watch: StallWatch, caplog: pytest.LogCaptureFixture
) -> None:
    await handler(0.6)
    (report,) = (one for one in reports(caplog) if ", in handler\n" in one)
    length = re.match(r"the event loop has been stalled for (\d+) ms, here:", report)
    assert length is not None
    assert 100 <= int(length[1]) < 600
    assert f'{__file__}", line ' in report
    assert ", in count_to_the_end_of\n" in report


@pytest.mark.parametrize("phase_s", [0.0, 0.01, 0.02, 0.03, 0.04])
async def test_a_stall_is_noticed_whenever_it_begins(
    watch: StallWatch, caplog: pytest.LogCaptureFixture, phase_s: float
) -> None:
    await let_it_run(phase_s)
    await handler(0.16)
    await until(lambda: reports(caplog))


async def test_each_stall_is_told_once(watch: StallWatch, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        await handler(0.3)
        await let_it_run(0.2)
    assert len([one for one in reports(caplog) if ", in handler\n" in one]) == 3


async def test_nothing_is_logged_of_a_loop_that_runs_and_of_stalls_below_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    patient = StallWatch(limit_s=2.0)  # so that nobody else on a busy machine can be the one
    patient.start()
    await let_it_run(0.5)
    await handler(0.4)
    await let_it_run(0.2)
    patient.stop()
    assert reports(caplog) == []
