"""Where the suite runs: ATOLL_ACCEPTANCE is `local` (default), `compose` or `kubernetes`."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from tests.acceptance import deployed as places
from tests.acceptance.deployed import Compose, Deployed, Local, Pods
from tests.acceptance.engine import CannotRun

PLACE = os.environ.get("ATOLL_ACCEPTANCE") or "local"
_PLACES: dict[str, Callable[[Path], AbstractContextManager[Deployed]]] = {
    "local": places.local,
    "compose": places.compose,
    "kubernetes": places.pods,
}
Host = TypeVar("Host", Compose, Pods)
CAN_NOT_RUN = 77  # as exit code; what autotools call a skipped test


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The shop, once for all tests: leave it as you found it."""
    assert PLACE in _PLACES, f"ATOLL_ACCEPTANCE is {PLACE!r}, and not one of {', '.join(_PLACES)}"
    try:
        with _PLACES[PLACE](tmp_path_factory.mktemp("deployed")) as there:
            yield there
    except CannotRun as reason:
        pytest.exit(
            f"THE ACCEPTANCE SUITE CAN NOT RUN ON {PLACE.upper()} HERE, so nothing of it is proven: {reason}",
            returncode=CAN_NOT_RUN,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure tells what everybody said: nothing is left of a place when the suite has ended."""
    report = yield
    there = item.funcargs.get("deployed")
    if report.failed and report.when == "call" and isinstance(there, (Local, Compose, Pods)):
        report.sections.append(("the ends of all logs", there.said()))
    return report


def _only(request: pytest.FixtureRequest, place: str, kind: type[Host], reason: str) -> Host:
    """What is deployed there; elsewhere nothing is started for it."""
    if place != PLACE:
        pytest.skip(reason)
    found = request.getfixturevalue("deployed")
    assert isinstance(found, kind)
    return found


@pytest.fixture
def containers(request: pytest.FixtureRequest) -> Compose:
    """For what only Compose promises."""
    return _only(request, "compose", Compose, "only Compose promises this; make acceptance-compose")


@pytest.fixture
def pods(request: pytest.FixtureRequest) -> Pods:
    """For what is to be seen at pods only."""
    return _only(request, "kubernetes", Pods, "of pods; make acceptance-kubernetes")


@pytest.fixture
def token(deployed: Deployed) -> str:
    """Ada's."""
    form = {"grant_type": "password", "username": "ada", "password": deployed.password("ada")}
    answer = httpx.post(f"{deployed.url}/auth/token", data=form, timeout=15)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


@pytest.fixture
def ada(deployed: Deployed, token: str) -> Iterator[httpx.Client]:
    """A customer who is signed in."""
    with httpx.Client(base_url=deployed.url, headers={"authorization": f"Bearer {token}"}, timeout=20) as http:
        yield http
