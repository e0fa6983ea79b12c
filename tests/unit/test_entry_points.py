"""How a part is started in a container: secrets in files, its address, waiting, what provision and a database are told."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from atoll.cli import wait
from atoll.errors import AtollError, SystemMistake
from atoll.provision.database import Environment
from atoll.provision.job import Job
from atoll.registry.address import reachable_at
from atoll.service.settings import Sources
from atoll.system.variables import with_files
from tests.support.contracts import contract


def test_a_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("nats://orders:pw@nats:4222\n")
    found = with_files({"ATOLL_BUS_URL_FILE": str(tmp_path / "url"), "SSL_CERT_FILE": "/etc/ssl/cert.pem"})
    assert found["ATOLL_BUS_URL"] == "nats://orders:pw@nats:4222"
    assert "SSL_CERT" not in found


def test_a_secret_that_can_not_be_read_is_named_with_its_file() -> None:
    with pytest.raises(SystemMistake, match="ATOLL_BUS_URL_FILE names /nowhere, which can't be read: No such file"):
        with_files({"ATOLL_BUS_URL_FILE": "/nowhere"})


def test_a_secret_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(SystemMistake, match="both set"):
        with_files({"AUTH_OPERATOR_SECRET": "y", "AUTH_OPERATOR_SECRET_FILE": str(tmp_path / "secret")})


def test_a_setting_may_lie_in_a_file_and_only_one_that_is_declared_is_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret")
    sources = Sources({"key": "manifest"}, {}, {"KEY_FILE": str(tmp_path / "key"), "OTHER_FILE": "/nowhere"})
    assert sources.find("key") == ("s3cret", f"the file {tmp_path / 'key'}")


async def test_who_listens_on_every_address_is_reached_where_it_reaches_the_bus() -> None:
    assert await reachable_at("0.0.0.0:8000", "nats://orders:pw@127.0.0.1:4222") == "127.0.0.1:8000"
    assert await reachable_at("[::]:8000", "nats://127.0.0.1") == "127.0.0.1:8000"
    assert await reachable_at("10.1.2.3:8000", "nats://127.0.0.1") == "10.1.2.3:8000"


def waiting(*arguments: str, **variables: str) -> Result:
    return CliRunner(env=variables).invoke(wait.command, list(arguments), standalone_mode=False)


@contextmanager
def answering(said: bytes) -> Iterator[int]:
    """A server that says this to the first who comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection, suppress(ConnectionResetError):  # it has heard enough
                connection.sendall(said)
                connection.settimeout(5)
                while connection.recv(1024):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def test_a_bus_is_there_when_it_greets() -> None:
    with answering(b'INFO {"server_id":"x"}\r\n') as port:
        assert waiting("bus", ATOLL_BUS_URL=f"nats://u:p@127.0.0.1:{port}").exception is None


def test_what_takes_connections_but_does_not_greet_is_no_bus() -> None:
    with answering(b"HTTP/1.1 400\r\n") as port:
        found = waiting(f"nats://u:secret@127.0.0.1:{port}", "--timeout", "0")
    assert str(found.exception) == f"nats://127.0.0.1:{port} does not answer after 0 s: it is no bus"


def test_a_service_is_healthy_when_it_says_so() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        assert waiting("health", "--timeout", "0", ATOLL_LISTEN=f"0.0.0.0:{port}").exception is None
    with answering(b"HTTP/1.1 503 Busy\r\n\r\n") as port:
        found = waiting("health", "--timeout", "0", ATOLL_LISTEN=f"0.0.0.0:{port}")
    assert "it answers 503" in str(found.exception)


def test_what_is_not_there_is_named_without_its_password() -> None:
    found = waiting("database", "--timeout", "0", ATOLL_DATABASE_URL="postgresql://orders:secret@127.0.0.1:1/orders")
    assert isinstance(found.exception, AtollError)
    assert "postgresql://127.0.0.1:1 does not answer" in str(found.exception)
    assert "secret" not in str(found.exception)


@pytest.mark.parametrize(("what", "said"), [("bus", "ATOLL_BUS_URL is not set"), ("ftp://x", "can't be waited for")])
def test_what_can_not_be_waited_for_is_a_mistake(what: str, said: str) -> None:
    found = waiting(what, ATOLL_BUS_URL="")
    assert isinstance(found.exception, SystemMistake)
    assert said in str(found.exception)


def job(folder: Path, **changed: str) -> dict[str, str]:
    (folder / "contracts").mkdir(exist_ok=True)
    (folder / "contracts" / "orders.json").write_text(json.dumps(contract("orders", ["order_placed"]).document))
    (folder / "system.json").write_text('{"services": {"orders": {}}}')
    users = json.dumps({"orders-admin": "a", "platform-admin": "b", "sys": "c"})
    return {"ATOLL_PROVISION_DIR": str(folder), "ATOLL_BUS_ADDRESS": "nats:4222", "ATOLL_BUS_USERS": users, **changed}


def test_provision_is_told_contracts_and_the_administrators_passwords(tmp_path: Path) -> None:
    found = Job.read(job(tmp_path))
    assert list(found.contracts) == ["orders"]
    assert found.administrator.entrance.url("sys", "c") == "nats://sys:c@nats:4222"


def test_provision_is_told_all_servers_of_a_bus_and_who_vouches_for_them(tmp_path: Path) -> None:
    found = Job.read(job(tmp_path, ATOLL_BUS_ADDRESS="a:1,b:2,c:3", ATOLL_BUS_CA="/ca.crt")).administrator.entrance
    assert found.url("sys", "c") == "tls://sys:c@a:1,tls://sys:c@b:2,tls://sys:c@c:3"
    assert found.authorities == "/ca.crt"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ATOLL_BUS_ADDRESS": ""}, "ATOLL_BUS_ADDRESS"),
        ({"ATOLL_BUS_ADDRESS": "nats"}, "'nats'"),
        ({"ATOLL_BUS_ADDRESS": "a:1,b:2"}, "names 2 servers"),
        ({"ATOLL_BUS_USERS": "{}"}, "no password for orders-admin, platform-admin, sys"),
        ({"ATOLL_BUS_USERS": "["}, "can't be used"),
    ],
)
def test_provision_says_what_it_was_not_told(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    with pytest.raises(SystemMistake, match=said):
        Job.read(job(tmp_path, **changed))


TOLD = {
    "ATOLL_SERVICE": "orders",
    "ATOLL_DATABASE_KIND": "mongodb",
    "ATOLL_DATABASE_DIR": "/data",
    "ATOLL_DATABASE_PASSWORD": "p",
    "ATOLL_DATABASE_ADMIN_PASSWORD": "a",
    "ATOLL_DATABASE_KEY": "abcdef",
}


def test_a_database_listens_where_its_kind_does() -> None:
    assert Environment.read(TOLD).port == 27017
    assert Environment.read(TOLD | {"ATOLL_DATABASE_KIND": "postgresql"}).port == 5432


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ATOLL_DATABASE_KEY": ""}, "ATOLL_DATABASE_KEY"),
        ({"ATOLL_DATABASE_PORT": "many"}, "'many'"),
        ({"ATOLL_DATABASE_KIND": "sqlite"}, "'sqlite'"),
    ],
)
def test_a_database_says_what_it_was_not_told(changed: dict[str, str], said: str) -> None:
    with pytest.raises(SystemMistake, match=said):
        Environment.read(TOLD | changed)
