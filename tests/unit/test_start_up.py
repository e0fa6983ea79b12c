"""What a process of a system must not import to start: every module is paid for by every replica, in time and in memory.

`python -m benchmarks.start_up` measures what the rest costs.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

DRIVERS = {"aiosqlite", "alembic", "asyncpg", "pymongo", "sqlalchemy"}
ADMINISTRATION = {"argon2", "atoll.cli", "atoll.engines", "atoll.host", "atoll.provision", "click", "watchfiles"}
SERVERS = {"a2wsgi", "h11", "httpx", "nats", "uvicorn", "websockets"}
UVICORN = {"a2wsgi", "anyio", "click", "email", "logging.config", "multiprocessing", "tempfile", "uvicorn", "watchfiles"}
WHEN_USED = {"anyio", "cryptography", "email", "jinja2", "joserfc", "multipart", "pydantic", "starlette", "tempfile", "yaml"}
NEVER = {"atoll.testing", "logging.config", "multiprocessing", "pkg_resources", "setuptools", "unittest"}
RUNTIME = DRIVERS | ADMINISTRATION | SERVERS | WHEN_USED | NEVER

SERVICE = """
from atoll import Conflict, Delivery, Event, NotFound, Page, Principal, Service, Settings
from atoll.sqlite import Transaction
import atoll.service.__main__, atoll.service.process, atoll.service.logs
import atoll.database.sqlite, atoll.bus.jetstream, atoll.delivery.loops, atoll.registry.announcement, uvloop
"""
CONTROLLER = "import atoll.gateway.controller, atoll.bus.jetstream"
HOST = "import atoll.cli.commands, atoll.cli.up, atoll.host.host"


def imported(program: str) -> set[str]:
    """Every module and package that is there after `program`."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{program}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        pytest.param(SERVICE, RUNTIME - UVICORN, id="service"),
        pytest.param(CONTROLLER, RUNTIME | {"sqlite3", "httptools"}, id="gateway"),
        pytest.param(HOST, DRIVERS | SERVERS | WHEN_USED | NEVER | {"argon2", "watchfiles"}, id="host"),
    ],
)
def test_a_process_starts_without(program: str, unwanted: set[str]) -> None:
    assert imported(program) & unwanted == set()


def test_only_a_server_that_takes_websockets_imports_what_they_need() -> None:
    program = "from atoll.service.server import Server; Server(print, message_limit_bytes={})"
    found = [imported(program.format(limit)) & {"websockets", "starlette"} for limit in ("None", "1000")]
    assert found == [set(), {"websockets"}]


def test_help_needs_no_system() -> None:
    program = "import sys; sys.argv = ['atoll', '--help']\nfrom atoll.cli import main\nimport contextlib, io\n"
    program += "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main()"
    assert imported(program) & {"asyncio", "atoll.host", "atoll.system", "msgspec", "ssl"} == set()
