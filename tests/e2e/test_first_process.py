"""`python -m atoll` as the first process of a container, to which the kernel gives no defaults for signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import until_sync

FIRST = ("unshare", "--pid", "--fork", "--mount-proc")
WAITS_FOR_NOBODY = (sys.executable, "-m", "atoll", "wait", "nats://127.0.0.1:1", "--timeout", "60")


def child(parent: int) -> int:
    """Its only one; 0 before there is one."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(found[0]) if found else 0


def catches(process: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{process}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


@pytest.mark.skipif(
    not Path("/proc/self/task").exists() or subprocess.run([*FIRST, "true"], capture_output=True, check=False).returncode != 0,
    reason="nobody may make a PID namespace here: Linux and root",
)
def test_a_first_process_that_listens_to_no_signals_ends_with_sigterm_all_the_same() -> None:
    with subprocess.Popen([*FIRST, *WAITS_FOR_NOBODY], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as outer:
        try:
            until_sync(lambda: (inner := child(outer.pid)) and catches(inner, signal.SIGTERM), 30, "SIGTERM is listened to")
            subprocess.run(["kill", "-TERM", str(child(outer.pid))], check=True)
            assert outer.wait(30) == 128 + signal.SIGTERM
        finally:
            if outer.poll() is None:
                subprocess.run(["kill", "-KILL", str(child(outer.pid))], check=False)
