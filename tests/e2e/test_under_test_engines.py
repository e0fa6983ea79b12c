"""`under_test` on real servers of its own, which are gone with the run, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import atoll.mongodb
import atoll.postgresql
from atoll import Event, Service
from atoll.testing import under_test
from tests.support.waiting import until_sync


class Placed(Event, name="placed", key="id"):
    id: str


def on_postgresql() -> Service:
    service = Service("orders", database="postgresql", publishes=[Placed])

    @service.put("/orders/{id}", public=True)
    async def place(id: str, tx: atoll.postgresql.Transaction) -> None:
        await tx.execute("INSERT INTO orders (id) VALUES ($1)", id)
        await tx.publish(Placed(id))

    return service


def on_mongodb() -> Service:
    service = Service("orders", database="mongodb", publishes=[Placed])

    @service.put("/orders/{id}", public=True)
    async def place(id: str, tx: atoll.mongodb.Transaction) -> None:
        await tx.publish(Placed(id))

    return service


@pytest.mark.parametrize("declare", [on_postgresql, on_mongodb])
async def test_a_service_runs_on_a_real_database_of_its_kind(declare: Any, tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations/0001_orders.sql").write_text("CREATE TABLE orders (id TEXT PRIMARY KEY)")
    folder = tmp_path if declare is on_postgresql else None
    for _ in range(2):
        async with under_test(declare(), folder=folder) as orders:
            answer = await orders.client.put("/orders/o1")
            assert (answer.status_code, orders.published) == (204, [Placed("o1")])
            assert orders.database.kind == orders.service.database


@pytest.mark.parametrize("kind", ["postgresql", "mongod"])
def test_a_run_that_is_killed_leaves_no_server_behind(kind: str) -> None:
    program = f"""
import sys, time
from atoll.testing import servers
server = servers.{kind}()
print(server.process.pid, server.folder, flush=True)
sys.stdin.read()
"""
    run = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdin is not None
    pid, folder = run.stdout.readline().split()
    assert Path(f"/proc/{pid}").exists() or sys.platform != "linux"

    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    run.stdin.close()

    until_sync(lambda: not _alive(int(pid)) and not Path(folder).exists(), what=f"{kind} to go")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
