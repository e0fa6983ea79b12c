"""What nobody means is answered with what is wrong with it, at once, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from atoll.cli.commands import COMMANDS
from tests.support.interpreters import environment, reachable_python
from tests.support.ports import free_port
from tests.support.system import RunningSystem, running, system
from tests.support.waiting import until_sync

NOBODY = 65534
ANSWERS_S = 15.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with running("pair", tmp_path_factory.mktemp("nonsense") / "pair") as copy:
        yield copy


NONSENSE = [
    ("scale middle", "is not NAME=N"),
    ("scale =2", "is not NAME=N"),
    ("scale middle=", "0 to 100"),
    ("scale middle=-1", "0 to 100"),
    ("scale middle=two", "0 to 100"),
    ("scale middle=1.5", "0 to 100"),
    ("scale middle=101", "0 to 100"),
    ("scale middle=999999", "0 to 100"),
    (f"scale middle={'9' * 5000}", "0 to 100"),
    ("scale left=2", "SQLite"),
    ("scale nobody=2", "there is no service 'nobody'"),
    ("scale envoy=2", "there is no service 'envoy'"),
    ("restart nobody", "there is no service 'nobody'"),
    ("run nobody", "there is no service 'nobody'"),
    ("describe nobody", "there is no service 'nobody'"),
    ("env nobody", "there is no service 'nobody'"),
    ("sql nobody", "there is no service 'nobody'"),
    ("sql middle", "middle has no database"),
    ("sql left -c SELEC", "syntax error"),
    ("contract accept nobody", "there is no service 'nobody'"),
    ("migrate nobody", "there is no service 'nobody'"),
    ("migrate middle", "middle has no database"),
    ("migrate left --new /", "names no migration"),
    ("token nobody", "the password of 'nobody' is not known here"),
    ("token nobody --password x", "'nobody' can't sign in"),
    ("token ann --password wrong", "'ann' can't sign in"),
    ("logs nobody", "there are no logs of 'nobody'"),
    ("logs -n -5", "-5"),
    ("logs -n many", "many"),
    ("dead-letters list nobody", "there is no service 'nobody'"),
    ("dead-letters list middle", "middle has no database"),
    ("dead-letters show left nothing", "left has no parked event nothing"),
    ("dead-letters retry left nothing", "no event nothing is parked"),
    ("dead-letters discard left nothing", "no event nothing is parked"),
    ("dead-letters discard left", "which event?"),
    ("explain POST /left/notes --as nobody", "`atoll token nobody --password …`"),
    ("wait bus --timeout -1", "-1"),
    ("wait bus --timeout nan", "'nan' is not a time"),
    ("wait bus --timeout inf", "inf"),
    ("dead-letters retry left x --body /nowhere", "/nowhere"),
    ("up --except nobody", "there is no service 'nobody'"),
    ("up --detach", "is running already"),
    ("canary nobody --weight 5", "there is no service 'nobody'"),
    ("canary left --weight 5", "left has no canary"),
    ("canary left --weight 101", "101"),
    ("explain nothing-of-the-kind", "nothing-of-the-kind"),
    ("gateway show nobody", "nobody"),
    ("mirror", "pair has no mirrors"),
    ("auth withdraw nothing", "nothing"),
    ("auth revoke --user nobody", "nobody"),
    ("auth make-api-key nobody", "nobody"),
    ("fly", "fly"),
]


def refused(done: subprocess.CompletedProcess[str], complaint: str) -> None:
    """Exit code and message of a mistake: a few lines on stderr with the complaint, no traceback, nothing on stdout."""
    assert done.returncode in (1, 2)
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) <= 5
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("typed", "complaint"), NONSENSE, ids=[typed[:40] for typed, _complaint in NONSENSE])
def test_it_is_refused_by_name_and_nothing_changes(pair: RunningSystem, typed: str, complaint: str) -> None:
    before = {name: process["pid"] for name, process in pair.processes().items()}
    refused(pair.run(*typed.split(), timeout_s=ANSWERS_S), complaint)
    assert {name: process["pid"] for name, process in pair.processes().items()} == before


# every command, where there is nothing to command

SIMPLE = {
    "run": ["left"],
    "restart": ["left"],
    "scale": ["left=1"],
    "describe": ["left"],
    "contract": ["accept"],
    "migrate": ["left"],
    "sql": ["left"],
    "token": ["ann"],
    "env": ["left"],
    "dead-letters": ["list"],
    "auth": ["keys"],
    "canary": ["left", "--weight", "10"],
    "explain": ["GET", "/left/notes"],
    "gateway": ["diff"],
    "render": ["compose"],
    "rollout": ["left"],
}
# What a container is started with: told everything by its environment, it asks for no system.
ENTRY_POINTS = {"database", "provision", "wait"}
# For container hosts: the host of this machine has no part in it.
OF_CONTAINERS = {"build", "render", "rollout"}
# These have something to say all the same: what was derived, what the gateway did last, what mirrors have found.
WITHOUT_HOST = {"up", "down", "describe", "contract", "doctor", "gateway", "explain", "mirror"} | OF_CONTAINERS | ENTRY_POINTS
OF_THE_MANIFEST = {"up", "describe", "contract", "migrate", "doctor"}


def say(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atoll", "-C", str(folder), name, *SIMPLE.get(name, [])]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - ENTRY_POINTS - {"doctor"}))
def test_outside_a_system_every_command_says_where_it_looked(tmp_path: Path, name: str) -> None:
    refused(say(name, tmp_path), f"there is no atoll.toml in {tmp_path}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(OF_THE_MANIFEST))
def test_a_manifest_that_can_not_be_read_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    """The other commands do not read it: who runs a system can look at it and stop it whatever the manifest says by now."""
    (tmp_path / "atoll.toml").write_text('format = 1\nname = "broken\n')
    refused(say(name, tmp_path), f"{tmp_path}/atoll.toml:2")


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT_HOST))
def test_a_command_to_a_system_that_does_not_run_says_so(tmp_path: Path, name: str) -> None:
    with system("pair", tmp_path / "pair") as pair:
        refused(say(name, pair.folder), "there are no logs" if name == "logs" else "this system is not running")


# services whose code does not let itself be looked at

ENDINGS = {
    "raise SystemExit(3)": "ended with code 3",
    "import os; print('no licence'); os._exit(7)": "ended with code 7\n  no licence",
    "raise SystemExit(0)": "ended with code 0",
    "import os; os.kill(os.getpid(), 9)": "killed by SIGKILL",
}


@pytest.mark.parametrize("code", ENDINGS)
def test_code_that_ends_its_process_is_named_with_what_it_said(tmp_path: Path, code: str) -> None:
    with system("pair", tmp_path / "pair") as pair:
        (pair.folder / "services/left/left/service.py").write_text(code)
        refused(pair.run("up", timeout_s=ANSWERS_S), f"the process that imports left to learn its contract was {ENDINGS[code]}")


def test_code_that_waits_is_named_while_it_does(tmp_path: Path) -> None:
    with system("pair", tmp_path / "pair") as pair:
        waiting = "import pathlib, time\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.01)\n"
        code = pair.folder / "services/left/left/service.py"
        code.write_text(code.read_text().replace("\nfrom atoll", f"\n{waiting}\nfrom atoll", 1))
        command = pair.command("describe", "left")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as describing:
            assert describing.stderr
            assert describing.stderr.readline() == f"left is still being imported ({pair.folder}/services/left)\n"
            (pair.folder / "services/left/go").touch()
            contract, _ = describing.communicate(timeout=30)
        assert json.loads(contract)["service"] == "left"


def test_passwords_that_can_not_be_read_are_not_made_anew(tmp_path: Path) -> None:
    with system("pair", tmp_path / "pair") as pair:
        kept = pair.folder / ".atoll" / "secrets.json"
        kept.parent.mkdir()
        kept.write_text("{")
        refused(pair.run("up", timeout_s=ANSWERS_S), f"{kept}: the passwords of this system are not readable")
        assert kept.read_text() == "{"


# whose it is


@contextmanager
def another_user() -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """A folder that a user can look into and not write, and how that user calls atoll. Under root it is nobody."""
    home = Path("/tmp") / f"atoll-foreign-{free_port()}"
    home.mkdir(mode=0o755)
    root = os.geteuid() == 0
    try:
        python = environment(home / "venv", {}, reachable_python(NOBODY) if root else sys.executable)
        prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups") if root else ()
        variables = {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        yield home, {"environment": variables, "prefix": prefix, "python": str(python)}
    finally:
        shutil.rmtree(home)


@pytest.mark.parametrize("detached", [["--detach"], []])
def test_up_in_a_folder_that_can_not_be_written_names_it(detached: list[str]) -> None:
    with another_user() as (home, user), system("pair", home / "pair", **user) as pair:
        pair.folder.chmod(0o555)
        try:
            told = pair.run("up", "--isolated", *detached, timeout_s=ANSWERS_S)
        finally:
            pair.folder.chmod(0o755)
        refused(told, f"{pair.folder}/.atoll: `.atoll` can't be written: Permission denied")


def test_a_system_that_another_user_runs_says_so() -> None:
    with another_user() as (home, user), system("pair", home / "pair", **user) as theirs:
        control = theirs.folder / ".atoll" / "control.sock"
        control.parent.mkdir(mode=0o711)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(control))
            control.chmod(0)
            refused(theirs.run("ps", timeout_s=ANSWERS_S), "this system is another user's")
            if os.geteuid() == 0:
                refused(
                    theirs.run("up", "--isolated", timeout_s=ANSWERS_S), "`.atoll` can't be written: Operation not permitted"
                )
                refused(theirs.run("down", timeout_s=ANSWERS_S), "Permission denied")
        shutil.rmtree(control.parent)


# when somebody changes their mind, or the host does not answer


def test_up_that_is_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    with system("pair", tmp_path / "pair") as pair:
        command = pair.command("up", "--detach", "--isolated")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
            until_sync(lambda: (pair.folder / ".atoll" / "control.sock").exists(), 15, "the host has begun")
            up.send_signal(signal.SIGINT)
            told, _ = up.communicate(timeout=30)
        assert up.returncode == 130
        assert told.splitlines()[-1] == "interrupted: what has started is stopped again"
        refused(pair.run("ps"), "this system is not running")
        assert "Traceback" not in (pair.folder / ".atoll" / "logs" / "host.log").read_text()


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[RunningSystem]:
    with running("pair", tmp_path / "pair") as pair:
        os.kill(pair.state["pid"], signal.SIGSTOP)
        yield pair


def test_a_host_that_hangs_is_told_of_and_ended(hung: RunningSystem) -> None:
    refused(hung.run("ps", timeout_s=ANSWERS_S), "the host has not answered for 5 s")
    before = hung.state
    assert f"the host (pid {before['pid']}) does not answer and is killed" in hung.must("down")
    assert hung.alive(before) == []
