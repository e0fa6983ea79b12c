"""A system comes up while events of its last life are not handled: what is waited for, for how long, and what is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support.system import RunningSystem, system
from tests.support.waiting import until_sync

HANDLER = '@service.on("left.note_taken")\nasync def keep(event: NoteTaken, tx: Transaction) -> None:\n'
ALONE = HANDLER.replace(")\nasync", ", alone=True)\nasync")
SLOW = "    import asyncio\n\n    await asyncio.sleep(%d)\n"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[RunningSystem]:
    with system("pair", tmp_path / "pair") as pair:
        yield pair


def handling(pair: RunningSystem, code: str) -> None:
    """What `right` does with a note before it keeps it."""
    service = pair.folder / "services/right/right/service.py"
    service.write_text(service.read_text().replace(HANDLER, ALONE + code))


def left(pair: RunningSystem, notes: int) -> None:
    """So many notes are taken while `right` does not run; then the system is down."""
    pair.up("--except", "right")
    with pair.client("ann") as http:
        for number in range(notes):
            assert http.post("/left/notes", json={"text": str(number)}).status_code == 201
    pair.down()


def up(pair: RunningSystem) -> CompletedProcess[str]:
    done = pair.run("up", "--detach", "--isolated", "--json")
    assert done.returncode == 0, done.stderr
    return done


def waiting(pair: RunningSystem) -> list[dict[str, str]]:
    return list(json.loads(pair.must("dead-letters", "list", "right", "--waiting", "--json")))


def copies(pair: RunningSystem) -> int:
    with pair.client() as http:
        return len(http.get("/right/copies").json())


def test_an_event_that_keeps_failing_is_told_with_its_reason_and_holds_nobody_up(pair: RunningSystem) -> None:
    handling(pair, '    raise ValueError("too bitter")\n')
    left(pair, 1)
    said = up(pair).stderr

    (event,) = waiting(pair)
    assert event["state"] == "waiting", "nobody has waited for its last try"
    (warning,) = [line for line in said.splitlines() if "can't handle" in line]
    assert warning.startswith(f"warning: right can't handle left.note_taken {event['id']} (tried ")
    assert " of 6 times): ValueError: too bitter; " in warning
    assert "`atoll dead-letters list right --waiting`, `atoll logs right`" in warning
    assert "waiting for events" not in said


def test_events_that_are_being_handled_are_told_and_waited_for(pair: RunningSystem) -> None:
    handling(pair, SLOW % 4)
    left(pair, 1)
    said = up(pair).stderr

    assert "waiting for events that are being handled: left → right: 1" in said
    assert "not all events" not in said
    assert copies(pair) == 1


def test_what_takes_too_long_is_told_too_and_goes_on_while_the_system_is_up(pair: RunningSystem) -> None:
    handling(pair, SLOW % 4)
    left(pair, 4)
    said = up(pair).stderr

    assert "after 10 s not all events are handled, services go on with them: left → right: " in said
    until_sync(lambda: copies(pair) == 4, 30, "all notes are there")


def test_a_system_without_anything_left_says_nothing_of_it(pair: RunningSystem) -> None:
    left(pair, 0)
    said = up(pair).stderr
    assert "event" not in said
