"""The bus of three containers under load: one is killed, another is cut off from the others, and every book agrees.

Last of the suite, because a service is added that writes down every event.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.acceptance.deployed import Compose
from tests.support.cluster import up_to_date
from tests.support.load import Ask, load
from tests.support.system import ROOT
from tests.support.waiting import until_sync

SKU = "beeswax-candle"
ORDER = {"lines": [{"sku": SKU, "quantity": 1}], "payment_method": "card-ok"}
CUSTOMERS = 2
MORE = 40  # events that must come all the way while a server is away
PATIENCE_S = 90.0
PLATFORM = "shop_platform"
OF_A_CONFIRMED_ORDER = (
    "orders.order_placed",
    "orders.order_confirmed",
    "inventory.stock_reserved",
    "payments.payment_authorized",
)

ASK = """
import asyncio, json, os
from atoll.bus.jetstream import JetStreamBus
from atoll.system.variables import with_files

async def main():
    told = with_files(os.environ)
    bus = JetStreamBus(told["ATOLL_BUS_URL"], name="asking", authorities=told["ATOLL_BUS_CA"])
    await bus.start()
    assert await bus.wait_connected(10)
    print((await bus.request("information.orders")).decode())
    await bus.close()

asyncio.run(main())
"""
READ = """
import asyncio, json, os
from atoll.database import open_database
from atoll.system.variables import with_files

async def main():
    database = open_database(with_files(os.environ)["ATOLL_DATABASE_URL"], None)
    await database.open()
    async with database.reader() as reader:
        print(json.dumps([list(row.values()) for row in await reader.all(dict, %r)]))
    await database.close()

asyncio.run(main())
"""


def rows(containers: Compose, service: str, sql: str) -> list[list[Any]]:
    """What its own database answers, asked where the service runs."""
    return list(json.loads(containers.python(service, READ % sql)))


def heard(containers: Compose) -> int:
    """By the witness, so far."""
    return int(rows(containers, "witness", "SELECT count(*) AS n FROM entry")[0][0])


def more(containers: Compose) -> Callable[[], bool]:
    """A condition: events have come all the way since now."""
    enough = heard(containers) + MORE
    return lambda: heard(containers) >= enough


def leader(containers: Compose) -> str:
    """Of the stream of orders, once all three servers are up to date; "" before that."""
    try:
        cluster = json.loads(containers.python("inventory", ASK)).get("cluster", {})
    except AssertionError:  # nobody leads yet
        return ""
    return str(cluster["leader"]) if all(map(up_to_date, cluster["replicas"])) else ""


def add_witness(containers: Compose) -> None:
    services = containers.system.folder / "services"
    shutil.copytree(ROOT / "tests" / "systems" / "witness", services / "witness")
    (services / "witness" / "requirements.txt").write_text((services / "notifications" / "requirements.txt").read_text())
    with (containers.system.folder / "atoll.toml").open("a") as manifest:
        manifest.write("\n[services.witness]\n")
    containers.system.must("contract", "accept", "witness")
    containers.system.must("build", "witness", "--environment", "containers", timeout_s=900)
    containers.system.must("render", "compose", "--environment", "containers")
    containers.compose("up", "-d")
    until_sync(lambda: containers.container("witness")["State"]["Health"]["Status"] == "healthy", PATIENCE_S)


def test_one_server_of_the_bus_is_killed_and_one_is_cut_off_and_nothing_is_lost_or_doubled(
    containers: Compose, token: str
) -> None:
    add_witness(containers)
    until_sync(lambda: settled(containers), PATIENCE_S, "what was ordered before has ended")
    before = stock(containers)
    customers = {"authorization": f"Bearer {token}"}
    with load(containers.url, lambda: Ask("POST", "/orders", 201, ORDER), customers, CUSTOMERS) as answers:
        until_sync(more(containers), PATIENCE_S, "events come")

        killed = until_sync(lambda: leader(containers), PATIENCE_S, "a leader")
        containers.kill(killed)
        until_sync(more(containers), PATIENCE_S, f"events come without {killed}")
        containers.revive(killed)

        cut_off = until_sync(lambda: leader(containers), PATIENCE_S, "all are up to date")
        (container,) = containers.containers(cut_off)
        containers.engine.docker("network", "disconnect", PLATFORM, container)
        until_sync(more(containers), PATIENCE_S, f"events come without {cut_off}, whose clients are still connected with it")
        containers.engine.docker("network", "connect", "--alias", cut_off, "--alias", f"{cut_off}.routes", PLATFORM, container)
        until_sync(lambda: leader(containers), PATIENCE_S, "all are up to date again")
        until_sync(more(containers), PATIENCE_S, "events come")

    assert answers.unexpected == []
    placed = {json.loads(one.text)["id"] for one in answers.all}
    assert len(placed) == len(answers.all)
    until_sync(lambda: settled(containers), PATIENCE_S, "all orders have ended, and everybody has heard of it")
    statuses = dict(rows(containers, "orders", "SELECT id::text AS id, status FROM orders"))
    assert placed <= statuses.keys()
    assert {statuses[order] for order in placed} == {"confirmed"}
    assert before - stock(containers) == len(placed)
    reconcile(rows(containers, "witness", "SELECT event_id, type, order_id FROM entry ORDER BY position"), placed)


def reconcile(entries: list[list[str]], placed: set[str]) -> None:
    """Each event once, those of one order in their order, and of every order the whole story."""
    assert [id for id, count in Counter(id for id, _, _ in entries).items() if count > 1] == []
    stories: dict[str, list[str]] = {}
    for _, kind, order in entries:
        stories.setdefault(order, []).append(kind)
    for order in placed:
        told = stories.get(order, [])
        assert [kind for kind in told if kind.startswith("orders.")] == ["orders.order_placed", "orders.order_confirmed"], order
        assert [kind for kind in told if kind.startswith("inventory.")] == ["inventory.stock_reserved"], order
        assert [kind for kind in told if kind.startswith("payments.")] == ["payments.payment_authorized"], order


def stock(containers: Compose) -> int:
    return int(rows(containers, "inventory", f"SELECT on_hand FROM stock WHERE sku = '{SKU}'")[0][0])


def settled(containers: Compose) -> bool:
    """The witness hears of everything from the beginning, of each stream by itself."""
    pending = rows(containers, "orders", "SELECT count(*) AS n FROM orders WHERE status = 'pending'")[0][0]
    confirmed = rows(containers, "orders", "SELECT count(*) AS n FROM orders WHERE status = 'confirmed'")[0][0]
    written = dict(rows(containers, "witness", "SELECT type, count(*) AS n FROM entry GROUP BY type"))
    held = rows(containers, "inventory", "SELECT count(*) AS n FROM reservation WHERE state = 'held'")[0][0]
    return not pending and not held and all(written.get(kind, 0) >= confirmed for kind in OF_A_CONFIRMED_ORDER)
