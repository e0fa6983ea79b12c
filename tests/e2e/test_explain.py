"""`atoll explain` on a running system: requests that are not made, requests that were made, and their events."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from atoll.delivery.envelope import new_id
from tests.support.system import RunningSystem, system
from tests.support.tokens import Mint
from tests.support.waiting import until_sync

FAILING = '    if event.text == "poison":\n        raise ValueError("too bitter")\n    await tx.execute('


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """The system of two, of which `right` can't handle a note that says poison."""
    with system("pair", tmp_path_factory.mktemp("explain") / "pair") as pair:
        service = pair.folder / "services/right/right/service.py"
        service.write_text(service.read_text().replace("    await tx.execute(", FAILING, 1))
        limited = pair.folder / "services/left/left/service.py"
        limited.write_text(limited.read_text().replace('"left:write")', '"left:write", rate_limit="500/h")'))
        pair.up()
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
        "no token     one is needed (or an API key in x-api-key), and there is none",
        "   answer    401, the gateway's own",
    ]


def test_a_token_of_somebody_else_is_told_with_the_key_that_nobody_knows(pair: RunningSystem) -> None:
    found = explained(pair, "POST", "/left/notes", "--token", Mint().token())

    assert (found["status"], found["steps"][-1]["facts"]["code"]) == (401, "token_key")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("nonsense",), "'nonsense' is neither METHOD PATH nor an id"),
        (("GET", "left"), "'GET left' is neither METHOD PATH nor an id"),
        (("one", "two", "three"), "neither METHOD PATH nor an id"),
        (("GET", "/left/notes", "--as", "ann", "--token", "x"), "exclude each other"),
        (("GET", "/left/notes", "--as", "nobody"), "the password of 'nobody' is not known here"),
    ],
)
def test_nonsense_is_told_what_it_should_be(pair: RunningSystem, words: tuple[str, ...], complaint: str) -> None:
    done = pair.run("explain", *words)

    assert done.returncode == 1
    assert complaint in done.stderr


# requests that were made, and their events


def noted(pair: RunningSystem, text: str) -> str:
    """The request id of a note that was taken."""
    with pair.client("ann") as http:
        answer = http.post("/left/notes", json={"text": text})
    assert answer.status_code == 201, answer.text
    return answer.headers["x-request-id"]


def logged(pair: RunningSystem, request_id: str) -> None:
    log = pair.folder / ".atoll" / "gateway" / "access.log"
    until_sync(lambda: request_id in log.read_text(), 20, "the gateway has logged it")


def events(pair: RunningSystem, id: str) -> dict[str, dict[str, Any]]:
    """The events of a request, by type, each with its deliveries by consumer."""
    found = explained(pair, id)["events"]
    return {one["type"]: {**one, "deliveries": {each["consumer"]: each for each in one["deliveries"]}} for one in found}


def delivered(pair: RunningSystem, id: str, state: str) -> dict[str, Any]:
    """How `right` stands to the note of that request, once it is so."""

    def found() -> dict[str, Any]:
        (note,) = [one for type, one in events(pair, id).items() if type == "left.note_taken"] or [{"deliveries": {}}]
        right = note["deliveries"].get("right", {})
        return note if right.get("state") == state else {}

    return until_sync(found, 30, f"right has {state} it")


def test_a_request_is_followed_through_log_and_events_to_every_consumer(pair: RunningSystem) -> None:
    request_id = noted(pair, "sweet")
    logged(pair, request_id)

    note = delivered(pair, request_id, "handled")

    assert (note["where"], note["sequence"] > 0) == ("stream", True)
    assert note["deliveries"]["right"]["at"] > 0
    found = explained(pair, request_id)
    (line,) = found["request"]
    assert (line["operation"], line["status"], line["subject"] != "") == ("left.take", 201, True)
    assert events(pair, request_id)["left.note_shouted"]["deliveries"] == {}
    assert found["not_asked"] == []
    by_trace = explained(pair, line["trace_id"])
    assert by_trace["events"] == found["events"]


def test_what_is_left_of_a_rate_limit_is_told_of_a_request_and_before_the_next(pair: RunningSystem) -> None:
    request_id = noted(pair, "counted")
    logged(pair, request_id)

    (line,) = explained(pair, request_id)["request"]
    (limits,) = [one for one in explained(pair, "POST", "/left/notes", "--as", "ann")["steps"] if one["what"] == "limits"]

    assert line["ratelimit_limit"] == "500"
    assert 0 < int(line["ratelimit_remaining"]) < 500
    assert limits["facts"]["left"]["remaining"] == int(line["ratelimit_remaining"])
    assert f"limits    {line['ratelimit_remaining']} of 500 left" in pair.must("explain", request_id)


def test_an_event_that_fails_is_told_with_its_attempts_its_error_and_the_log_lines(pair: RunningSystem) -> None:
    request_id = noted(pair, "poison")
    logged(pair, request_id)

    note = delivered(pair, request_id, "waiting")

    right = note["deliveries"]["right"]
    assert right["attempts"] >= 1
    assert right["error"] == "ValueError: too bitter"
    alone = explained(pair, note["id"])["event"]
    assert (alone["type"], alone["deliveries"][0]["consumer"]) == ("left.note_taken", "right")
    said = pair.must("explain", request_id)
    assert f"event     left.note_taken {note['id']}" in said
    assert "right: failed " in said
    assert "nobody consumes it" in said


def test_while_the_bus_is_gone_an_event_waits_in_the_outbox_and_it_is_said_who_was_not_asked(pair: RunningSystem) -> None:
    pair.kill("nats", signal.SIGSTOP)
    try:
        request_id = noted(pair, "patient")
        logged(pair, request_id)
        found = explained(pair, request_id)
    finally:
        pair.kill("nats", signal.SIGCONT)

    assert {one["where"] for one in found["events"]} == {"outbox"}
    assert any("the stream of left" in one for one in found["not_asked"])
    delivered(pair, request_id, "handled")


def test_a_request_that_failed_says_why(pair: RunningSystem) -> None:
    with pair.client() as http:
        request_id = http.post("/left/notes", json={"text": "x"}).headers["x-request-id"]
    logged(pair, request_id)

    said = pair.must("explain", request_id).splitlines()

    assert said[2].startswith("answer    401 after ")
    assert said[2].endswith(": token: Jwt is missing")
    assert said[-1] == "events    none has its trace"


def test_while_the_system_is_down_logs_say_what_they_can(pair: RunningSystem) -> None:
    request_id = noted(pair, "poison")
    logged(pair, request_id)
    note = delivered(pair, request_id, "waiting")
    pair.down()
    try:
        found, event = explained(pair, request_id), explained(pair, note["id"])
        said = pair.must("explain", request_id).splitlines()
        nobody = pair.run("explain", new_id())
    finally:
        pair.up()

    (line,) = found["request"]
    assert (line["operation"], line["status"], found["events"]) == ("left.take", 201, None)
    assert said[-1] == "not asked databases and streams, which have the events: this system is not running"
    assert not [one for one in said if one.startswith("events")]
    assert (event["event"], {one["process"] for one in event["logs"]}) == (None, {"right-1"})
    assert nobody.returncode == 1
    assert "this system is not running" in nobody.stderr


def test_an_id_that_is_nobodys_says_where_was_looked(pair: RunningSystem) -> None:
    request = pair.run("explain", "6f9619ff-8b86-4011-b42d-00c04fc964ff")
    event = pair.run("explain", new_id())

    assert (request.returncode, event.returncode) == (1, 1)
    assert "access.log" in request.stderr
    assert "lines" in request.stderr
    assert "there is no event" in event.stderr
    assert "outboxes, inboxes and parked events" in event.stderr
