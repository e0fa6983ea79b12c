"""What a gateway begins with when its host starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.errors import SystemMistake
from atoll.gateway.known import Known
from atoll.host.gateway import GatewayHost
from atoll.host.guard import Reaper
from atoll.host.layout import Layout
from atoll.host.machine import Machine
from atoll.host.ports import Ports
from atoll.host.supervise import Supervisor
from atoll.host.versions import Versions
from atoll.provision.secrets import Secrets
from atoll.system.manifest import parse
from atoll.tokens import Providers, Revocations
from atoll.tokens.revocations import RevokedShard
from tests.support.foreign import ForeignMint
from tests.support.gateway import contract
from tests.support.tokens import Mint

MANIFEST = """
format = 1
name = "shop"
[services.orders]
python = "orders.py"
[services.stock]
python = "stock.py"
"""


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    found = Reaper()
    yield found
    found.close()


def machine(folder: Path, reaper: Reaper) -> Machine:
    layout = Layout(folder)
    return Machine(
        system=parse(MANIFEST, folder / "atoll.toml"),
        layout=layout,
        ports=Ports(layout.ports),
        secrets=Secrets(layout.secrets),
        versions=Versions(layout.versions),
        supervisor=Supervisor(reaper, lambda _line: None, lambda: None),
        variables=dict(os.environ),
        say=lambda _line: None,
    )


async def test_a_gateway_that_starts_again_knows_what_it_knew_of_tokens_before_it_hears_of_anything(
    tmp_path: Path, reaper: Reaper
) -> None:
    """Otherwise every session that was ended a minute ago would be good again until the bus has answered."""
    (tmp_path / ".atoll").mkdir()
    host = GatewayHost(machine(tmp_path, reaper))
    await host.write({})
    inputs = host.root / "inputs.json"
    told = replace(
        Known.parse(inputs.read_bytes()),
        keys=Mint().key_set,
        revocations=Revocations().updated(RevokedShard(7, 1, {"session-1": 9_999_999_999})),
        providers=Providers((ForeignMint().provider(),), version=1),
    )
    inputs.write_bytes(told.serialize())
    await host.write({})
    again = Known.parse(inputs.read_bytes())
    assert (again.keys, again.revocations, again.providers) == (told.keys, told.revocations, told.providers)
    assert "session-1" in (host.root / "revocations" / "revocations.json").read_text()


async def test_a_contract_that_envoy_refuses_is_named_before_anything_starts(tmp_path: Path, reaper: Reaper) -> None:
    """With such files it would start, and answer 404 to everybody."""
    (tmp_path / ".atoll").mkdir()
    host = GatewayHost(machine(tmp_path, reaper))
    orders = contract("orders", {"/orders/{id}/" + 11_000 * "x": {"get": {}}})
    stock = contract("stock", {"/stock/{id}": {"get": {}}})

    with pytest.raises(SystemMistake, match=r"Envoy refuses the contract of orders: .*regex") as mistake:
        await host.write({"orders": orders, "stock": stock})

    assert mistake.value.where == f"{tmp_path / 'atoll.toml'}:4"
    assert not (host.root / "rds").exists()
    await host.write({"stock": stock})
    assert (host.root / "rds" / "rds.pb").exists()
