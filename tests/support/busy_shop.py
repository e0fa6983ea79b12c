"""The example shop with a witness in it, customers who never stop, ways to hurt it, and its books to compare afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from atoll.host.sessions import kill_sessions
from tests.chaos.drill import Books, Clients, Findings, Plan, Shop
from tests.support.load import Answers, Ask, load
from tests.support.system import ROOT, RunningSystem, system
from tests.support.waiting import until_sync

__all__ = ["BusyShop", "busy_shop"]


class BusyShop:
    """`running` is the system, with two replicas each of orders and inventory; `findings` has what customers were promised."""

    def __init__(self, running: RunningSystem) -> None:
        self.running = running
        self.url = ""
        self.findings = Findings()
        self._shop = Shop(running.folder, Plan(kills=0, seed=1, faults=""))
        self._random = random.Random(1)
        self._drawing = threading.Lock()
        self._skus: list[str] = []
        self._scarce = ""
        self._wiped = False

    def open(self) -> None:
        """Up, with known stock of everything and little of one product."""
        self._shop.make()
        self.url = self.running.up()["url"]
        asyncio.run(self._prepare())

    async def _prepare(self) -> None:
        clients = Clients(self._shop, self.findings)
        async with httpx.AsyncClient(base_url=self.url, timeout=20) as http:
            await clients.prepare(http)
            listed = (await http.get("/catalog/products", params={"limit": 100})).json()["items"]
        self._scarce = clients.scarce
        self._skus = sorted(item["sku"] for item in listed)

    # customers

    def client(self) -> httpx.Client:
        """An ordinary HTTP client at the gateway, signed in as a customer."""
        form = {"grant_type": "password", "username": "ada", "password": "demo-only-ada"}
        token = httpx.post(f"{self.url}/auth/token", data=form, timeout=20).json()["access_token"]
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {token}"}, timeout=20)

    def order(self) -> Ask:
        """One more order, of a seeded choice."""
        with self._drawing:
            skus = self._random.sample(self._skus, self._random.randint(1, 3))
            lines = [{"sku": sku, "quantity": self._random.randint(1, 3)} for sku in skus]
            card = self._random.choices(["card-ok", "card-declined"], [4, 1])[0]
        return Ask("POST", "/orders", 201, {"lines": lines, "payment_method": card})

    def shopping(self) -> Ask:
        """An order, or a look at one's orders: orders take more time to settle than to place."""
        return self.order() if self._random.random() < 0.3 else Ask("GET", "/orders?limit=5")

    @contextmanager
    def customers(self, count: int = 3) -> Iterator[Answers]:
        """Shopping goes on throughout the block; what got a 201 counts as promised."""
        with self.client() as http, load(self.url, self.shopping, http.headers, count) as answers:
            yield answers
        self.findings.accepted |= {json.loads(one.text)["id"] for one in answers.of("POST", 201)}

    # what happens to it

    @contextmanager
    def dead(self, *names: str) -> Iterator[None]:
        """kill -9, and nobody starts them again before the block ends: their host is stopped meanwhile."""
        processes = self.running.processes()
        host = self.running.state["pid"]
        os.kill(host, signal.SIGSTOP)
        try:
            kill_sessions([(processes[name]["pid"], processes[name]["started"]) for name in names])
            yield
        finally:
            os.kill(host, signal.SIGCONT)
        for name in names:
            self.running.until_ready(name, not_pid=processes[name]["pid"], timeout_s=40)

    @contextmanager
    def dead_for_good(self, *names: str) -> Iterator[None]:
        """The same, but at the end of the block everything else is killed, too."""
        processes = self.running.processes()
        os.kill(self.running.state["pid"], signal.SIGSTOP)
        try:
            kill_sessions([(processes[name]["pid"], processes[name]["started"]) for name in names])
            yield
        finally:
            self.kill_everything()

    @contextmanager
    def hung(self, *names: str) -> Iterator[None]:
        """Stopped: their connections stay, and nothing answers on them."""
        pids = [self.running.processes()[name]["pid"] for name in names]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def kill_everything(self) -> None:
        """kill -9 of the host, its reaper and all that they watch over, so fast that nobody can tidy up after another."""
        state = self.running.state
        host = [(state["pid"], state["started"]), (state["reaper"][0], state["reaper"][1])]
        kill_sessions(host + [(one["pid"], one["started"]) for one in state["processes"] if one["pid"]])
        until_sync(lambda: not self.running.alive(state), 15, "everything is gone")

    def wipe_bus(self) -> None:
        """Nothing of what the bus stored is left. Only while it does not run."""
        shutil.rmtree(self.running.folder / ".atoll" / "data" / "nats")
        self._wiped = True

    # its books

    def books(self) -> list[str]:
        """What is wrong in them once nothing moves any more: lost, doubled, unpaid, out of order. Empty when all is well."""

        async def compare() -> None:
            books = Books(self._shop, self.findings, self._scarce)
            books.bus_was_wiped = self._wiped
            await books.settle()
            await books.reconcile()

        self.findings.wrong.clear()
        asyncio.run(compare())
        return list(self.findings.wrong)


@contextmanager
def busy_shop(folder: Path) -> Iterator[BusyShop]:
    """Up and prepared; gone at the end, whatever was done to it."""
    with system(ROOT / "examples" / "shop", folder) as running:
        shop = BusyShop(running)
        shop.open()
        yield shop
