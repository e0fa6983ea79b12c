"""The plan: from a system and its contracts to processes, without looking at the machine."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from atoll.errors import SystemMistake
from atoll.host import processes
from atoll.host.layout import Layout
from atoll.host.processes import Known, ProcessSpec, Slot
from atoll.system.contract import Contract
from atoll.system.manifest import System, parse

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "processes.json"
SHOP = """
format = 1
name = "shop"
[auth]
database = "postgresql"
users = { ada = { password = "demo", scopes = ["orders:write"] } }
[services.orders]
python = "venv/bin/python"
[services.orders.settings]
vat_rate = "0.10"
provider_url = "{bank.url}/charges"
api_key = { secret = "bank_key" }
[services.storefront]
kind = "client"
prefix = "/"
[services.legacy]
command = ["python", "-m", "gunicorn", "--bind", "{host}:{port}"]
contract = "contracts/legacy.json"
[services.bank]
kind = "simulator"
command = ["bank", "--port={port}"]
"""


def shop(text: str = SHOP) -> System:
    return parse(text, Path("/shop/atoll.toml"))


def contract(service: str, database: str | None = None, settings: list[str] | None = None) -> Contract:
    named = [{"name": name} for name in settings or []]
    return Contract.parse({"format": 1, "service": service, "database": database, "settings": named})


def known(**variables: str) -> Known:
    return Known(
        layout=Layout(Path("/shop")),
        database_urls={
            "orders": "postgresql://orders:pw@127.0.0.1:5001/orders",
            "auth": "postgresql://auth:pw@127.0.0.1:5002/auth",
        },
        bus_urls={name: f"nats://{name}:pw@127.0.0.1:4222" for name in ("orders", "auth", "legacy")},
        simulator_urls={"bank": "http://127.0.0.1:2109"},
        variables={"PATH": "/usr/bin", "HOME": "/home/ada", "PYTHONPATH": "/elsewhere", "AWS_SECRET": "x", **variables},
        operator_secret="0pe",
    )


def plan() -> tuple[ProcessSpec, ...]:
    system, told = shop(), known(BANK_KEY="s3cret")
    orders = contract("orders", "postgresql", ["vat_rate", "api_key"])
    return (
        processes.auth(system, contract("auth", "postgresql"), Slot("auth", 1, 2101), told),
        processes.replica(system, system.service("orders"), orders, Slot("orders", 2, 2102), told),
        processes.replica(system, system.service("storefront"), contract("storefront"), Slot("storefront", 1, 2103), told),
        processes.replica(system, system.service("legacy"), contract("legacy"), Slot("legacy", 1, 2104), told),
        processes.simulator(system, system.service("bank"), Slot("bank", 1, 2109), told),
    )


def shown(spec: ProcessSpec) -> dict[str, Any]:
    """As JSON, with what differs between machines replaced."""
    package = str(Path(processes.__file__).resolve().parent.parent)
    text = json.dumps(asdict(spec), default=str).replace(sys.executable, "PYTHON").replace(package, "ATOLL")
    return dict(json.loads(text))


def test_the_plan_of_a_shop_is_the_golden_one() -> None:
    assert [shown(spec) for spec in plan()] == json.loads(GOLDEN.read_text()), (
        "if this is meant: python -m tests.unit.test_processes"
    )


def test_a_service_is_told_nothing_of_the_host_s_environment_that_is_not_its_business() -> None:
    for spec in plan():
        assert "AWS_SECRET" not in spec.environment
        assert "PYTHONPATH" not in spec.environment


def test_a_real_variable_reaches_a_service_only_for_a_setting_that_it_declared() -> None:
    system = shop()
    declared = contract("orders", "postgresql", ["vat_rate"])
    slot = Slot("orders", 1, 2100)
    told = processes.service_environment(system, system.service("orders"), declared, slot, known(VAT_RATE="0.2", API_KEY="x"))
    assert told["VAT_RATE"] == "0.2"
    assert "API_KEY" not in told


def test_a_secret_that_is_not_set_is_left_out_so_that_the_service_can_name_it() -> None:
    assert "api_key" not in processes.settings(shop().service("orders"), known())


def test_a_setting_that_names_an_unknown_simulator_is_a_mistake() -> None:
    system = shop(SHOP.replace("{bank.url}/charges", "{bnk.url}"))
    with pytest.raises(SystemMistake, match=r"provider_url of orders names \{bnk\.url\}") as caught:
        processes.settings(system.service("orders"), known())
    assert "bank" in caught.value.hint


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps([shown(spec) for spec in plan()], indent=2) + "\n")
