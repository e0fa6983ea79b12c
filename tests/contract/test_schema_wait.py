"""`atoll migrate` and `atoll wait schema` as a container starts them: beside a database, without host and bus."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deployed import SHOP

AUTH = Path(__file__).resolve().parents[2] / "src" / "atoll" / "auth"


def told(service: str, url: str) -> dict[str, str]:
    folder = AUTH if service == "auth" else SHOP / "services" / service
    return {
        "ATOLL_SERVICE": service,
        "ATOLL_FOLDER": str(folder),
        "ATOLL_DATABASE_URL": url,
        "ATOLL_AUTH_DATABASE": "postgresql",
    }


def atoll(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atoll", *arguments]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("service", "kind", "last"),
    [
        ("orders", "postgresql", "0001_orders.sql"),
        ("inventory", "postgresql", "_stock.py"),
        ("auth", "postgresql", ".sql"),
        ("catalog", "mongodb", "0001_products.py"),
        ("notifications", "sqlite", "0001_messages.sql"),
    ],
)
def test_a_service_s_schema_is_waited_for_until_its_own_code_has_migrated_it(
    service: str, kind: str, last: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite://{tmp_path}/own.sqlite" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    variables = told(service, url)
    before = atoll("wait", "schema", "--timeout", "0", **variables)
    assert (before.returncode, before.stdout) == (1, "")
    assert f"the schema is not there after 0 s: {service} waits for " in before.stderr

    applied = atoll("migrate", service, **variables)
    assert applied.returncode == 0, applied.stderr
    assert applied.stdout.splitlines()[-1].endswith(last)
    assert applied.stdout.splitlines()[-1] in before.stderr

    after = atoll("wait", "schema", "--timeout", "0", **variables)
    assert (after.returncode, after.stderr) == (0, "")
    assert atoll("migrate", service, **variables).stdout == "nothing to apply\n"


def test_a_database_that_is_not_there_is_named_without_its_password() -> None:
    found = atoll("wait", "schema", "--timeout", "0", **told("orders", "postgresql://orders:secret@127.0.0.1:1/orders"))
    assert found.returncode == 1
    assert "secret" not in found.stderr
    assert "the schema is not there after 0 s" in found.stderr


def test_whoever_is_no_service_is_told_so() -> None:
    found = atoll("wait", "schema", ATOLL_SERVICE="")
    assert found.returncode == 1
    assert "ATOLL_SERVICE is not set" in found.stderr
