"""Requests that are sent again and answers that are kept, at the real gateway, with a service killed in between."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.system import RunningSystem, running
from tests.support.waiting import until_sync


@dataclass(frozen=True)
class Kiosk:
    """`dying` is the file whose presence kills the service after each commit, before it answers."""

    system: RunningSystem
    dying: Path
    anybody: httpx.Client
    ann: httpx.Client
    bob: httpx.Client

    def sold(self) -> list[str]:
        answer = self.anybody.get("/kiosk/tickets")
        assert answer.status_code == 200, answer.text
        return [ticket["buyer"] for ticket in answer.json()]

    def asked(self, what: str) -> int:
        """How often that handler ran since its process began."""
        found: list[str] = self.anybody.get("/kiosk/asked").json()
        return found.count(what)


@pytest.fixture(scope="module")
def kiosk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kiosk]:
    folder = tmp_path_factory.mktemp("kiosk")
    dying = folder / "dying"
    faults = {"ATOLL_FAULTS": f"answer.committed:1,while:{dying}"}
    with (
        running("kiosk", folder / "kiosk", environment=faults) as system,
        system.client() as anybody,
        system.client("ann") as ann,
        system.client("bob") as bob,
    ):
        yield Kiosk(system, dying, anybody, ann, bob)


def buy(client: httpx.Client, key: str, line: str = "1") -> httpx.Response:
    return client.post("/kiosk/tickets", json={"line": line}, headers={"idempotency-key": key} if key else {})


# requests that are sent again


def test_a_ticket_is_sold_once_however_often_its_request_is_sent(kiosk: Kiosk) -> None:
    key, before = str(uuid.uuid4()), kiosk.sold()
    first, second = buy(kiosk.ann, key), buy(kiosk.ann, key)

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert ("idempotency-replayed" in first.headers, second.headers["idempotency-replayed"]) == (False, "true")
    assert buy(kiosk.bob, key).json()["buyer"] != first.json()["buyer"]
    assert len(kiosk.sold()) == len(before) + 2


def test_a_key_for_something_else_and_no_key_at_all_are_refused(kiosk: Kiosk) -> None:
    key = str(uuid.uuid4())
    assert buy(kiosk.ann, key).status_code == 201

    other, missing = buy(kiosk.ann, key, line="2"), buy(kiosk.ann, "")

    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert (missing.status_code, missing.json()["code"]) == (400, "idempotency_key_missing")


def test_a_service_killed_between_commit_and_answer_has_sold_one_ticket_and_says_so(kiosk: Kiosk) -> None:
    key, before = str(uuid.uuid4()), kiosk.sold()
    pid = kiosk.system.processes()["kiosk-1"]["pid"]
    kiosk.dying.touch()

    def bought() -> httpx.Response | None:
        answer = buy(kiosk.ann, key)
        assert answer.status_code == 201 or answer.status_code >= 500, answer.text
        return answer if answer.status_code == 201 else None

    try:
        answer = until_sync(bought, 60, "the next process answers")
    finally:
        kiosk.dying.unlink()

    assert answer is not None
    assert answer.headers["idempotency-replayed"] == "true"
    assert kiosk.system.until_ready("kiosk-1", not_pid=pid)["pid"] != pid
    until_sync(lambda: kiosk.anybody.get("/kiosk/tickets").status_code == 200, 20, "the gateway has seen that it is back")
    assert len(kiosk.sold()) == len(before) + 1


def test_the_systems_openapi_names_the_header(kiosk: Kiosk) -> None:
    described = kiosk.anybody.get("/openapi.json").json()["paths"]["/kiosk/tickets"]["post"]

    assert [(one["name"], one["required"]) for one in described["parameters"]] == [("Idempotency-Key", True)]
    assert described["x-atoll-idempotent"] is True


# answers that are kept


def test_what_may_be_kept_comes_through_the_gateway_as_the_service_said(kiosk: Kiosk) -> None:
    first, kept = [kiosk.anybody.get("/kiosk/lines", params={"q": "a"}) for _ in range(2)]
    known = kiosk.anybody.get("/kiosk/lines", params={"q": "a"}, headers={"if-none-match": first.headers["etag"]})
    head = kiosk.anybody.head("/kiosk/lines", params={"q": "a"})

    assert first.headers["cache-control"] == "public, max-age=3600"
    assert kept.content == first.content
    assert kept.headers["age"].isdigit()
    assert (known.status_code, known.content) == (304, b"")
    for answer in (kept, known, head):
        for name in ("etag", "cache-control"):
            assert answer.headers[name] == first.headers[name]
    assert kiosk.asked("lines a") == 1


def test_an_answer_that_was_compressed_on_its_way_is_recognised_all_the_same(kiosk: Kiosk) -> None:
    plain, packed = [
        kiosk.anybody.get("/kiosk/timetable", headers={"accept-encoding": coding}) for coding in ("identity", "gzip")
    ]
    assert (packed.headers["content-encoding"], packed.json()) == ("gzip", plain.json())
    assert packed.headers["etag"] == f"W/{plain.headers['etag']}"
    assert "accept-encoding" in packed.headers["vary"].lower()

    for answer in (plain, packed):
        known = kiosk.anybody.get("/kiosk/timetable", headers={"if-none-match": answer.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
        assert known.headers["etag"] == answer.headers["etag"]  # another one would renew nothing that a cache has


def test_what_is_asked_for_every_time_is_not_sent_every_time(kiosk: Kiosk) -> None:
    before = kiosk.asked("delays")
    first = kiosk.anybody.get("/kiosk/delays")
    known = kiosk.anybody.get("/kiosk/delays", headers={"if-none-match": first.headers["etag"]})

    assert (first.headers["cache-control"], known.status_code, known.content) == ("public, no-cache", 304, b"")
    assert kiosk.asked("delays") == before + 2


def test_head_is_answered_as_get_is_also_when_it_is_known(kiosk: Kiosk) -> None:
    for known in ({}, {"if-none-match": kiosk.anybody.get("/kiosk/delays").headers["etag"]}):
        get, head = (kiosk.anybody.request(method, "/kiosk/delays", headers=known) for method in ("GET", "HEAD"))

        assert (get.status_code, head.status_code) == ((304, 304) if known else (200, 200))
        assert head.content == b""
        own = {"date", "x-request-id"}
        assert {n: v for n, v in head.headers.items() if n not in own} == {n: v for n, v in get.headers.items() if n not in own}


def test_one_users_answer_never_reaches_another_through_the_gateway(kiosk: Kiosk) -> None:
    for _ in range(3):
        answers = {name: getattr(kiosk, name).get("/kiosk/seat") for name in ("ann", "bob")}
        seats = {name: answer.json() for name, answer in answers.items()}
        assert seats["ann"] != seats["bob"]
        assert {answer.headers["cache-control"] for answer in answers.values()} == {"private, max-age=3600"}
        assert {answer.headers["vary"] for answer in answers.values()} == {"authorization, x-api-key"}
    stranger = kiosk.anybody.get("/kiosk/seat", headers={"if-none-match": answers["ann"].headers["etag"]})
    assert stranger.status_code == 401

    with kiosk.system.client("ann") as ann_again:  # another token of the same user
        again = ann_again.get("/kiosk/seat")
    assert (again.json(), "age" in again.headers) == (seats["ann"], False)
