"""`atoll explain` on a running system: requests that are not made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.system import RunningSystem, running
from tests.support.tokens import Mint


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with running("pair", tmp_path_factory.mktemp("explain") / "pair") as pair:
        yield pair


def explained(pair: RunningSystem, *words: str) -> dict[str, Any]:
    return dict(json.loads(pair.must("explain", *words, "--json")))


def test_a_request_of_a_user_who_may_goes_to_a_healthy_replica(pair: RunningSystem) -> None:
    found = explained(pair, "POST", "/left/notes", "--as", "ann")

    assert found["status"] is None
    facts = {step["what"]: step["facts"] for step in found["steps"]}
    assert facts["route"]["name"] == "left.take"
    assert facts["scope"]["needed"] == "left:write"
    port = pair.processes()["left-1"]["port"]
    assert facts["replicas"]["replicas"] == [{"address": f"127.0.0.1:{port}", "health": "healthy"}]


def test_nothing_is_sent(pair: RunningSystem) -> None:
    with pair.client() as http:
        before = http.get("/left/notes").json()
        explained(pair, "POST", "/left/notes", "--as", "ann")
        assert http.get("/left/notes").json() == before


def test_for_people_it_says_where_a_request_ends_and_why(pair: RunningSystem) -> None:
    said = pair.must("explain", "post", "/left/notes").splitlines()

    assert said == [
        "ok route     left.take: POST /left/notes",
        "no token     one is needed, and there is none",
        "   answer    401, the gateway's own",
    ]


def test_a_token_of_somebody_else_is_told_with_the_key_that_nobody_knows(pair: RunningSystem) -> None:
    found = explained(pair, "POST", "/left/notes", "--token", Mint().token())

    assert (found["status"], found["steps"][-1]["facts"]["code"]) == (401, "token_key")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("nonsense",), "'nonsense' is not METHOD PATH"),
        (("GET", "left"), "'GET left' is not METHOD PATH"),
        (("GET", "/left/notes", "--as", "ann", "--token", "x"), "exclude each other"),
        (("GET", "/left/notes", "--as", "nobody"), "the password of 'nobody' is not known here"),
    ],
)
def test_nonsense_is_told_what_it_should_be(pair: RunningSystem, words: tuple[str, ...], complaint: str) -> None:
    done = pair.run("explain", *words)

    assert done.returncode == 1
    assert complaint in done.stderr
