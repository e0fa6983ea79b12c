"""`atoll database`: a server that makes its service's role itself, says when it is ready, and ends when it is told."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.support.ports import free_port
from tests.support.waiting import until_sync

RULES = """SELECT string_agg(concat_ws(' ', type, user_name, address, auth_method), '; ' ORDER BY rule_number)
FROM pg_hba_file_rules"""
PASSWORD, ADMINISTRATOR = secrets.token_hex(16), secrets.token_hex(16)  # it listens on every address


@pytest.fixture
def folder() -> Iterator[Path]:
    """PostgreSQL runs as another user under root, who has to get there; the tests' own folders are closed to that one."""
    with tempfile.TemporaryDirectory(prefix="atoll-") as place:
        os.chmod(place, 0o755)
        yield Path(place)


@contextmanager
def database(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "password").write_text(PASSWORD)
    told = {
        "ATOLL_SERVICE": "orders",
        "ATOLL_DATABASE_KIND": "postgresql",
        "ATOLL_DATABASE_DIR": str(folder / "data"),
        "ATOLL_DATABASE_PORT": str(port),
        "ATOLL_DATABASE_PASSWORD_FILE": str(folder / "password"),
        "ATOLL_DATABASE_ADMIN_PASSWORD": ADMINISTRATOR,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "atoll", "database"], env={**os.environ, **told}, stderr=subprocess.DEVNULL
    )
    try:
        until_sync(lambda: process.poll() is not None or (folder / "data" / "ready").exists(), 60, "it is ready")
        assert process.poll() is None
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)


async def ask(port: int, user: str, password: str, statement: str) -> object:
    connection = await asyncpg.connect(host="127.0.0.1", port=port, user=user, password=password, database="orders", ssl=False)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def test_a_database_serves_its_service_ends_when_it_is_told_and_keeps_what_it_has(folder: Path) -> None:
    port = free_port()
    with database(folder, port) as process:
        asyncio.run(ask(port, "orders", PASSWORD, "CREATE TABLE kept AS SELECT 7 AS number"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not (folder / "data" / "ready").exists()
    with database(folder, port):
        assert asyncio.run(ask(port, "orders", PASSWORD, "SELECT number FROM kept")) == 7


def test_over_the_network_only_the_service_may_sign_in(folder: Path) -> None:
    port = free_port()
    with database(folder, port):
        assert asyncio.run(ask(port, "orders", PASSWORD, "SHOW listen_addresses")) == "*"
        rules = asyncio.run(ask(port, "postgres", ADMINISTRATOR, RULES))
        assert str(rules).split("; ") == [
            "local {all} scram-sha-256",
            "host {all} 127.0.0.1 scram-sha-256",
            "host {postgres} all reject",
            "host {all} all scram-sha-256",
        ]


def test_a_server_that_dies_takes_its_container_with_it(folder: Path) -> None:
    with database(folder, free_port()) as process:
        server = int((folder / "data" / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(server, signal.SIGKILL)
        assert process.wait(30) != 0
