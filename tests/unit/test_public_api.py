"""Everything that service authors may rely on, by name. What is not listed here is private."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import atoll
from atoll.testing import UnderTest
from tests.support.pages import DOCS, names, rows

NAMES = {
    "atoll": """
        Body Bug Conflict Cookie Database Delivery Event Forbidden Form Header Invalid Mistake NotFound Outage Page Principal
        Query Refused Request Response Router Secret Service Settings Transaction Unauthorized UploadFile
        WebSocket
    """,
    "atoll.mongodb": "Collection Database Transaction WriteConflict",
    "atoll.postgresql": "Database Transaction",
    "atoll.sqlalchemy": "Database Session run_migrations",
    "atoll.sqlite": "Database Transaction",
    "atoll.testing": "Socket UnderTest under_test",
}


@pytest.mark.parametrize("module", sorted(NAMES))
def test_the_page_of_the_public_api_has_exactly_these(module: str) -> None:
    shown = [names(row[0])[0] for row in rows(DOCS / "reference" / "public-api.md", f"## `{module}`")]

    assert sorted(shown) == NAMES[module].split()


def test_the_page_names_what_a_router_and_a_service_under_test_can_do() -> None:
    shown = {names(row[0])[0]: set(names(row[1])) for row in rows(DOCS / "reference" / "public-api.md")}

    methods = {name for name in vars(atoll.Router) if not name.startswith("_")} - {"include"}
    assert methods <= shown["Router"]
    assert {name for name in vars(UnderTest) if not name.startswith("_")} <= shown["UnderTest"]
    for module in ("atoll.postgresql", "atoll.mongodb"):
        methods = {name.partition("(")[0] for name in transaction(module)} - {"$1", "NotFound"}
        assert methods <= set(dir(importlib.import_module(module).Transaction))
    assert set(atoll.Principal.__match_args__) == shown["Principal"]
    assert set(atoll.Delivery.__match_args__) == shown["Delivery"]


def transaction(module: str) -> list[str]:
    """What the page says that a transaction can do."""
    (found,) = [row for row in rows(DOCS / "reference" / "public-api.md", f"## `{module}`") if row[0] == "`Transaction`"]
    return names(found[1])


@pytest.mark.parametrize("module", sorted(NAMES))
def test_the_public_names_are_exactly_these_and_sorted(module: str) -> None:
    exported = importlib.import_module(module).__all__

    assert list(exported) == NAMES[module].split()


def test_every_name_can_be_imported() -> None:
    for name in atoll.__all__:
        assert getattr(atoll, name).__name__ == name
    assert set(atoll.__all__) < set(dir(atoll))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Servce'"):
        _ = atoll.Servce


def test_importing_atoll_loads_nothing() -> None:
    program = "import sys; before = set(sys.modules); import atoll; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert [one for one in loaded if one.split(".")[0] not in sys.stdlib_module_names] == ["atoll"]


def test_declaring_a_service_loads_no_driver_no_crypto_and_no_server() -> None:
    program = (
        "import sys; from atoll import Service, Event, Principal, Page, NotFound; s = Service('orders'); s.operations;"
        "import atoll.service.http; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    heavy = {
        "asyncpg",
        "pymongo",
        "sqlalchemy",
        "cryptography",
        "joserfc",
        "uvicorn",
        "starlette",
        "pydantic",
        "anyio",
        "multipart",
    }
    assert heavy.isdisjoint(loaded)
