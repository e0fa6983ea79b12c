"""What the bus must be for a set of contracts, as data and as the text of nats.conf."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from atoll.engines import nats as engine
from atoll.errors import SystemMistake
from atoll.provision.nats import BusServer, accounts, configuration, users
from atoll.system.plan import BusPlan, BusService, BusSource
from tests.support.contracts import contract, shop_on_the_bus

GOLDEN = Path(__file__).parents[1] / "golden" / "nats.conf"
SERVER = BusServer("shop", 4222, Path("/var/lib/atoll/nats"))


def text(plan: BusPlan, server: BusServer = SERVER) -> str:
    return configuration(plan, server, {user: f"secret-{user}" for user in users(plan)})


def test_the_configuration_of_a_shop_is_the_golden_file() -> None:
    """After an intended change: read the difference, then copy it into the file."""
    assert text(BusPlan.of(shop_on_the_bus())) == GOLDEN.read_text()


def test_the_server_accepts_the_golden_file() -> None:
    done = subprocess.run([engine.find(), "-t", "-c", GOLDEN], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_the_order_of_contracts_makes_no_difference() -> None:
    contracts = shop_on_the_bus()

    assert text(BusPlan.of(contracts)) == text(BusPlan.of(dict(reversed(contracts.items()))))


def test_a_plan_knows_who_consumes_what_of_whom() -> None:
    plan = BusPlan.of(
        {
            "orders": contract("orders", ["order_placed", "order_cancelled"]),
            "payments": contract("payments", ["payment_due"], ["orders.order_placed", "payments.payment_due"]),
        }
    )

    assert plan == BusPlan(
        (
            BusService("orders", {"order_placed": 1, "order_cancelled": 1}),
            BusService(
                "payments",
                {"payment_due": 1},
                (BusSource("orders", ("order_placed",)), BusSource("payments", ("payment_due",))),
            ),
        )
    )
    assert plan.consumers["orders"]["payments"].filters == ("event.orders.order_placed.*",)
    assert plan.consumers["payments"] == {"payments": BusSource("payments", ("payment_due",))}


def test_clients_have_no_user_on_the_bus() -> None:
    plan = BusPlan.of({"orders": contract("orders"), "storefront": contract("storefront")}, clients={"storefront"})

    assert [service.name for service in plan.services] == ["orders"]
    assert users(plan) == ("orders", "orders-admin", "gateway", "platform-admin", "sys")


def test_a_source_nobody_is_or_an_event_nobody_publishes_is_a_warning() -> None:
    plan = BusPlan.of({"orders": contract("orders"), "payments": contract("payments", [], ["ghost.seen", "orders.gone"])})

    assert plan.warnings == (
        "payments consumes seen of ghost, but there is no service ghost",
        "payments consumes orders.gone, which orders does not publish",
    )
    assert plan.services[1].sources == (BusSource("orders", ("gone",)),)


@pytest.mark.parametrize("name", ["platform", "sys", "gateway", "orders-admin", "Orders", "a.b", "x y", "1st", 'a"b', ""])
def test_a_name_that_can_not_stand_in_a_subject_is_refused(name: str) -> None:
    with pytest.raises(SystemMistake):
        BusPlan.of({name: contract("orders")})


def test_a_password_of_any_characters_stays_one_value() -> None:
    plan = BusPlan.of({"orders": contract("orders")})
    odd = 'a"b\\c}#$X'
    written = configuration(plan, SERVER, dict.fromkeys(users(plan), odd))

    assert written.count('password: "a\\"b\\\\c}#$X"') == len(users(plan))
    assert SERVER.url("orders", "p@:/ss") == "nats://orders:p%40%3A%2Fss@127.0.0.1:4222"


def test_power_loss_safety_is_one_setting() -> None:
    plan = BusPlan.of({})

    assert "sync_interval" not in text(plan)
    assert 'sync_interval: "always"' in text(plan, BusServer("shop", 4222, Path("/x"), sync_always=True))


def test_accounts_of_former_services_stay_without_users() -> None:
    before = text(BusPlan.of(shop_on_the_bus()))
    plan = BusPlan.of({"orders": contract("orders")})
    after = configuration(plan, SERVER, dict.fromkeys(users(plan), "x"), retired=accounts(before) - {"ORDERS"})

    assert accounts(before) == accounts(after) == {"AUTH", "INVENTORY", "ORDERS", "PAYMENTS", "REVIEWS"}
    assert 'user: "inventory"' not in after
