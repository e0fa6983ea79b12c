"""Commands that ask or change a running system."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.system import RunningSystem, running, system
from tests.support.waiting import until_sync


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with running("pair", tmp_path_factory.mktemp("commands") / "pair") as copy:
        yield copy


def post(pair: RunningSystem, text: str) -> str:
    with pair.client("ann") as http:
        return str(http.post("/left/notes", json={"text": text}).json()["id"])


def parked(pair: RunningSystem) -> list[dict[str, object]]:
    return list(json.loads(pair.must("dead-letters", "list", "right", "--waiting", "--json")))


def test_env_tells_what_a_replica_is_started_with(pair: RunningSystem) -> None:
    variables = json.loads(pair.must("env", "left", "--json"))
    assert variables["ATOLL_SERVICE"] == "left"
    assert variables["ATOLL_DATABASE_URL"] == f"sqlite://{pair.folder}/.atoll/data/left/left.sqlite"
    shell = f'set -e; {pair.must("env", "right")}\nprintf %s "$ATOLL_SETTINGS"'
    said = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == {"greeting": "hello"}


def test_describe_prints_a_contract(pair: RunningSystem) -> None:
    contract = json.loads(pair.must("describe", "left"))
    assert contract["service"] == "left"
    assert "/left/notes" in contract["openapi"]["paths"]


def test_sql_runs_a_statement_on_the_service_s_own_database(pair: RunningSystem) -> None:
    post(pair, "for sql")
    said = pair.must("sql", "left", "-c", "SELECT text FROM note WHERE text = 'for sql'")
    assert said.splitlines() == ["text", "for sql"]
    refused = pair.run("sql", "left", "-c", "SELEC")
    assert refused.returncode == 1
    assert "syntax error" in refused.stderr


def test_logs_of_one_service_are_its_own(pair: RunningSystem) -> None:
    said = pair.must("logs", "left")
    assert "left-1 |" in said
    assert "right-1" not in said
    unknown = pair.run("logs", "nobody")
    assert unknown.returncode == 1
    assert "left-1" in unknown.stderr


def test_logs_follow_what_is_written(pair: RunningSystem) -> None:
    follower = subprocess.Popen(pair.command("logs", "-f", "-n", "0", "right"), stdout=subprocess.PIPE, text=True)
    try:
        pair.kill("right-1")
        assert follower.stdout is not None
        assert follower.stdout.readline().startswith("right-1 |")
    finally:
        follower.kill()
        assert follower.stdout is not None
        follower.stdout.close()
        follower.wait()
    pair.until_ready("right-1")


def test_a_token_is_a_real_one_and_a_wrong_password_is_refused(pair: RunningSystem) -> None:
    answer = json.loads(pair.must("token", "ann", "--json"))
    assert answer["token_type"].lower() == "bearer"
    refused = pair.run("token", "ann", "--password", "wrong")
    assert refused.returncode == 1
    assert "/auth/token answered 4" in refused.stderr


def test_migrate_applies_what_is_new(pair: RunningSystem) -> None:
    assert pair.must("migrate", "left").strip() == "nothing to apply"
    path = pair.must("migrate", "left", "--new", "add a colour").strip()
    Path(path).write_text("ALTER TABLE note ADD COLUMN colour TEXT;\n")
    assert "0002_add_a_colour.sql" in pair.must("migrate", "left")
    with sqlite3.connect(pair.folder / ".atoll" / "data" / "left" / "left.sqlite") as database:
        database.execute("SELECT colour FROM note")
    database.close()
    Path(path).write_text("ALTER TABLE")
    refused = pair.run("migrate", "left")
    assert refused.returncode == 1
    assert "0002_add_a_colour.sql" in refused.stderr


def test_events_that_fail_are_listed_shown_and_handled_again(tmp_path: Path) -> None:
    with system("pair", tmp_path / "pair") as pair:
        code = pair.folder / "services" / "right" / "right" / "service.py"
        code.write_text(
            code.read_text().replace(
                "    await tx.execute(\n",
                "    if event.text == 'bad':\n        raise ValueError('poison')\n    await tx.execute(\n",
                1,
            )
        )
        pair.up()
        assert parked(pair) == []
        post(pair, "bad")
        until_sync(lambda: parked(pair), 20, "the event is parked")
        (letter,) = parked(pair)
        shown = json.loads(pair.must("dead-letters", "show", "right", str(letter["id"]), "--json"))
        assert shown["body"]["text"] == "bad"
        assert "ValueError: poison" in shown["trace"]
        body = tmp_path / "body.json"
        body.write_text(json.dumps({**shown["body"], "text": "good"}))
        pair.must("dead-letters", "retry", "right", str(letter["id"]), "--body", str(body))
        with pair.client() as http:
            until_sync(lambda: [copy["text"] for copy in http.get("/right/copies").json()] == ["good"], 20)
        assert parked(pair) == []
        assert pair.run("dead-letters", "discard", "right", str(letter["id"])).returncode == 1


def test_a_missing_engine_takes_down_only_the_service_that_needs_it(tmp_path: Path) -> None:
    """A mongod that can't be loaded comes before the real one on PATH."""
    broken = tmp_path / "bin"
    broken.mkdir()
    mongod = broken / "mongod"
    complaint = "mongod: error while loading shared libraries: libcurl.so.4: cannot open shared object file"
    mongod.write_text(f"#!/bin/sh\necho '{complaint}' >&2\nexit 127\n")
    mongod.chmod(0o755)
    path = {"PATH": f"{broken}:{os.environ['PATH']}"}
    with system("pair", tmp_path / "pair", environment=path) as pair:
        code = pair.folder / "services" / "middle" / "middle" / "service.py"
        code.write_text(code.read_text().replace("database=None", 'database="mongodb"'))
        told = pair.run("up", "--detach", "--isolated")
        assert told.returncode == 0
        lines = [line for line in told.stderr.splitlines() if "middle is down" in line]
        assert len(lines) == 1
        assert "libcurl4" in lines[0]
        with pair.client() as http:
            assert http.get("/left/notes").status_code == 200
            assert http.get("/middle/process").status_code == 503
        assert "middle is down" in pair.must("ps")
        refused = pair.run("restart", "middle")
        assert refused.returncode == 1
        assert "libcurl4" in refused.stderr


def test_doctor_names_engines_and_what_holds_the_port(pair: RunningSystem) -> None:
    findings = {one["what"]: one for one in json.loads(pair.must("doctor", "--json"))}
    assert findings["nats-server"]["state"] == "ok"
    assert findings["system"]["found"].startswith("pair, running")
