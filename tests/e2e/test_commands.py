"""Commands that ask or change a running system."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.host.logs import LIMIT_BYTES
from atoll.host.ports import bind
from tests.support.ports import free_port
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
    follower = subprocess.Popen(pair.command("logs", "-f", "-n", "1", "right"), stdout=subprocess.PIPE, text=True)
    try:
        assert follower.stdout is not None
        last = follower.stdout.readline()
        assert last.startswith("right-1 |")
        pair.kill("right-1")
        further = follower.stdout.readline()
        assert further.startswith("right-1 |")
        assert further != last
    finally:
        follower.kill()
        assert follower.stdout is not None
        follower.stdout.close()
        follower.wait()
    pair.until_ready("right-1")


def test_a_full_log_is_set_aside_while_its_process_writes(pair: RunningSystem) -> None:
    access, own = pair.folder / ".atoll" / "gateway" / "access.log", pair.folder / ".atoll" / "logs" / "left-1.log"
    with pair.client() as http:
        assert http.get("/left/notes").status_code == 200
        until_sync(access.exists)
        for log in (access, own):
            os.truncate(log, LIMIT_BYTES + 1)
        until_sync(lambda: access.exists() and access.stat().st_size < LIMIT_BYTES and own.stat().st_size < LIMIT_BYTES, 20)
        assert http.get("/left/notes").status_code == 200
        until_sync(lambda: "/left/notes" in access.read_text(), 10, "Envoy goes on in a new file")
    for log in (access, own):
        assert log.with_name(f"{log.name}.1").stat().st_size > LIMIT_BYTES


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


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """A system in which notes that begin with "bad" can't be handled."""
    with system("pair", tmp_path_factory.mktemp("poisoned") / "pair") as pair:
        code = pair.folder / "services" / "right" / "right" / "service.py"
        poison = "    if event.text.startswith('bad'):\n        raise ValueError('poison')\n    await tx.execute(\n"
        code.write_text(code.read_text().replace("    await tx.execute(\n", poison, 1))
        pair.up()
        yield pair


def dead(pair: RunningSystem) -> list[dict[str, object]]:
    return list(json.loads(pair.must("dead-letters", "list", "right", "--json")))


def dead_letter(pair: RunningSystem, text: str) -> dict[str, object]:
    """Of a note with that text, after its last attempt: the five before it and their minutes are skipped."""
    key = post(pair, text)
    until_sync(lambda: parked(pair), 20, "the event is parked")
    brought_forward = f"UPDATE atoll_parked SET attempts = 5, due_at = 0 WHERE key = '{key}'"
    pair.must("sql", "right", "-c", brought_forward)
    return until_sync(lambda: next((one for one in dead(pair) if one["key"] == key), {}), 20, "it is a dead letter")


def texts(pair: RunningSystem) -> list[str]:
    with pair.client() as http:
        return [copy["text"] for copy in http.get("/right/copies").json()]


def test_programs_read_what_commands_did(pair: RunningSystem) -> None:
    replicas = ["middle-1", "middle-2"]
    assert json.loads(pair.must("scale", "middle=2", "--json")) == {"service": "middle", "replicas": replicas}
    assert pair.replicas("middle") == replicas
    replaced = json.loads(pair.must("restart", "middle", "--json"))["replaced"]
    assert [one["old"] for one in replaced] == replicas
    assert sorted(one["new"] for one in replaced) == sorted(pair.replicas("middle"))
    (accepted,) = json.loads(pair.must("contract", "accept", "middle", "--json"))
    assert accepted == {"service": "middle", "state": "new", "file": "contracts/middle.json"}
    assert json.loads(pair.must("migrate", "right", "--json")) == {"service": "right", "applied": []}
    said = [json.loads(line) for line in pair.must("logs", "right", "-n", "1", "--json").splitlines()]
    assert [one["process"] for one in said] == ["right-1"]
    pair.must("scale", "middle=1")


def test_events_that_fail_are_listed_shown_and_handled_again(poisoned: RunningSystem, tmp_path: Path) -> None:
    assert parked(poisoned) == []
    post(poisoned, "bad for a while")
    until_sync(lambda: parked(poisoned), 20, "the event is parked")
    (letter,) = parked(poisoned)
    assert (letter["state"], letter["service"], dead(poisoned)) == ("waiting", "right", [])
    shown = json.loads(poisoned.must("dead-letters", "show", "right", str(letter["id"]), "--json"))
    assert shown["body"]["text"] == "bad for a while"
    assert "ValueError: poison" in shown["trace"]
    body = tmp_path / "body.json"
    body.write_text(json.dumps({**shown["body"], "text": "good"}))
    poisoned.must("dead-letters", "retry", "right", str(letter["id"]), "--body", str(body))
    until_sync(lambda: texts(poisoned) == ["good"], 20)
    assert parked(poisoned) == []
    assert poisoned.run("dead-letters", "discard", "right", str(letter["id"])).returncode == 1


def test_a_dead_letter_is_told_as_text_tried_anew_and_discarded(poisoned: RunningSystem) -> None:
    letter = dead_letter(poisoned, "bad for ever")
    id = str(letter["id"])
    assert (letter["state"], letter["attempts"], letter["error"]) == ("dead", 6, "ValueError: poison")
    line = f"right  {id}  left.note_taken  key {letter['key']}  ValueError: poison"
    assert poisoned.must("dead-letters", "list").splitlines() == [line], "of every service"
    shown = poisoned.must("dead-letters", "show", "right", id)
    assert "ce-type: left.note_taken" in shown
    assert "raise ValueError('poison')" in shown
    poisoned.must("dead-letters", "retry", "right", id)
    until_sync(lambda: [one["attempts"] for one in parked(poisoned) if one["attempts"]], 20, "its attempts are counted anew")
    assert dead(poisoned) == []
    assert poisoned.must("dead-letters", "discard", "right", id).strip() == f"{id} is discarded"
    assert poisoned.must("dead-letters", "list", "--waiting").strip() == "no dead letters"
    assert poisoned.must("dead-letters", "retry", "right", "--all").strip() == "right has no dead letters"
    assert "bad for ever" not in texts(poisoned)


def test_all_dead_letters_of_a_service_are_retried_or_discarded_at_once(poisoned: RunningSystem, tmp_path: Path) -> None:
    ids = {str(dead_letter(poisoned, f"bad {n}")["id"]) for n in range(2)}
    body = tmp_path / "body.json"
    body.write_text('{"text": ')
    refused = poisoned.run("dead-letters", "retry", "right", "--all", "--body", str(body))
    assert refused.returncode == 1
    assert f"{body}: this is not JSON" in refused.stderr
    nothing = poisoned.run("dead-letters", "retry", "right")
    assert nothing.returncode == 1
    assert "which event?" in nothing.stderr
    assert {one["id"] for one in dead(poisoned)} == ids
    said = poisoned.must("dead-letters", "discard", "right", "--all")
    assert set(said.splitlines()) == {f"{id} is discarded" for id in ids}
    assert parked(poisoned) == []


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


def findings(copy: RunningSystem) -> dict[str, dict[str, str]]:
    return {one["what"]: one for one in json.loads(copy.run("doctor", "--json").stdout)}


def test_doctor_names_engines_and_the_host_that_runs(pair: RunningSystem) -> None:
    found = findings(pair)
    assert found["nats-server"]["state"] == "ok"
    assert found["system"]["found"] == f"pair, running (host pid {pair.state['pid']})"
    assert "gateway port" not in found, "it is the system's own"


def test_doctor_names_who_holds_the_gateways_port(tmp_path: Path) -> None:
    with system("pair", tmp_path / "pair") as pair, bind(free_port()) as listener:
        manifest = pair.folder / "atoll.toml"
        port = listener.getsockname()[1]
        manifest.write_text(manifest.read_text().replace("port = 8180", f"port = {port}"))
        found = findings(pair)
        assert found["system"]["found"] == "pair, not running"
        assert found["gateway port"]["state"] == "missing"
        name = Path("/proc/self/comm").read_text().strip()
        assert found["gateway port"]["found"] == f"{port} is taken by pid {os.getpid()} ({name})"
        assert "--isolated" in found["gateway port"]["advice"]
        refused = pair.run("up", "--detach")
        assert refused.returncode == 1
        assert f"pid {os.getpid()} ({name})" in refused.stderr
        listener.close()
        assert findings(pair)["gateway port"]["found"] == f"{port} is free"
