"""The drill: kill things at random while orders are placed, then reconcile every book with every other.

    python -m tests.chaos.drill --kills 1000 --seed 7

Everything is seeded but the machine's own timing: a seed repeats which things are killed in which order and what is ordered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
ATOLL = Path(sys.executable).with_name("atoll")
PUBLISHERS = ("catalog", "orders", "inventory", "payments")
PLENTY = 1_000_000
SCARCE = 40
_INSISTING_S = 90.0
_NOT_NOW = (401, 408, 409, 429)  # auth, the gateway or the same request is not ready: told to ask again
_PAUSED_S = 6.5  # longer than a lease: the other replica takes over meanwhile


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `orders_per_s` is what clients try; `faults` goes into ATOLL_FAULTS of every service."""

    kills: int
    seed: int
    orders_per_s: float = 15.0
    faults: str = "relay.published:0.004,consumer.committed:0.004,answer.committed:0.005"
    duplicate_window_s: float = 0.1
    inbox: bool = True


@dataclass(slots=True)
class Findings:
    """What clients saw, what was done to the system, and what the books say afterwards. All of `wrong` must be empty.

    `by_itself`: processes that died at one of the worst moments, which no signal from outside can hit. `replayed`: orders that
    had been placed when they were sent again.
    """

    killed: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    twice: int = 0
    by_itself: int = 0
    replayed: int = 0

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)


class Shop:
    """A copy of the example shop with a witness in it, run by its own host."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        self.url = ""
        self.dangerous = folder.with_name("dangerous")

    def make(self) -> None:
        ignored = shutil.ignore_patterns(".atoll", "__pycache__", ".pytest_cache", "tests")
        shutil.copytree(ROOT / "examples" / "shop", self.folder, ignore=ignored, dirs_exist_ok=True)
        shutil.copytree(ROOT / "tests" / "systems" / "witness", self.folder / "services" / "witness", ignore=ignored)
        manifest = self.folder / "atoll.toml"
        text = manifest.read_text()
        for service in ("orders", "inventory"):
            text = text.replace(f"[services.{service}]\n", f"[services.{service}]\nreplicas = 2\n")
        manifest.write_text(text + "\n[services.witness]\n")

    def atoll(self, *arguments: str) -> str:
        faults = f"{self.plan.faults},while:{self.dangerous}" + ("" if self.plan.inbox else ",inbox:off")
        environment = {**os.environ, "ATOLL_FAULTS": faults}
        done = subprocess.run(
            [ATOLL, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=180, check=False
        )
        if done.returncode != 0:
            raise AssertionError(f"atoll {' '.join(arguments)}: {done.stdout}\n{done.stderr}")
        return done.stdout

    def up(self) -> None:
        self.atoll("up", "--detach", "--isolated")
        self.url = self.state()["url"]

    def down(self) -> None:
        self.atoll("down")

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / ".atoll" / "state.json").read_text())
        return state

    def processes(self) -> list[dict[str, Any]]:
        return [one for one in self.state()["processes"] if one["pid"]]

    def process(self, name: str) -> dict[str, Any] | None:
        return next((one for one in self.processes() if one["name"] == name), None)

    def database_url(self, service: str) -> str:
        return str(json.loads(self.atoll("env", service, "--json"))["ATOLL_DATABASE_URL"])

    def sqlite(self, service: str) -> sqlite3.Connection:
        path = self.folder / ".atoll" / "data" / service / f"{service}.sqlite"
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


class Clients:
    """Place orders at a steady rate, send each until they are told what became of it, and now and then change their mind.

    `given_up`: orders of which they were told nothing for too long.
    """

    def __init__(self, shop: Shop, findings: Findings) -> None:
        self._shop = shop
        self._findings = findings
        self._random = random.Random(f"{shop.plan.seed}/clients")
        self._skus: list[str] = []
        self._tokens: dict[str, tuple[str, float]] = {}
        self.scarce = ""
        self.given_up = 0

    async def prepare(self, http: httpx.AsyncClient) -> None:
        listed = (await http.get("/catalog/products", params={"limit": 100})).json()["items"]
        self._skus = sorted(item["sku"] for item in listed)
        self.scarce = self._skus[0]
        for sku in self._skus:
            on_hand = SCARCE if sku == self.scarce else PLENTY
            await self._ask(http, "PUT", f"/inventory/{sku}", "grace", {"on_hand": on_hand}, expected=200)

    async def run(self, http: httpx.AsyncClient, stop: asyncio.Event) -> None:
        pause_s = 1 / self._shop.plan.orders_per_s
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                group.create_task(self._place(http, self._order()))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause_s)

    def _order(self) -> dict[str, Any]:
        skus = self._random.sample(self._skus, self._random.randint(1, 3))
        lines = [{"sku": sku, "quantity": self._random.randint(1, 3)} for sku in skus]
        return {"lines": lines, "payment_method": self._random.choices(["card-ok", "card-declined"], [4, 1])[0]}

    async def _place(self, http: httpx.AsyncClient, order: dict[str, Any]) -> None:
        changes_mind = self._random.random() < 0.1
        answer = await self._insist(http, order)
        if answer is None or answer.status_code != 201:
            return
        placed = answer.json()["id"]
        self._findings.accepted.add(placed)
        self._findings.replayed += "idempotency-replayed" in answer.headers
        if changes_mind:
            await self._try(http, "POST", f"/orders/{placed}/cancellation", None)

    async def _insist(self, http: httpx.AsyncClient, order: dict[str, Any]) -> httpx.Response | None:
        """Sends it, under one key, until it is placed or refused: no answer, or a 5xx, does not say which."""
        key = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        end = time.monotonic() + _INSISTING_S
        while time.monotonic() < end:
            answer = await self._try(http, "POST", "/orders", order, key)
            status = answer.status_code if answer else 0
            self._findings.answers[status] += 1
            if 200 <= status < 500 and status not in _NOT_NOW:
                return answer
            await _wait(random.uniform(0.2, 0.6))
        self.given_up += 1
        return None

    async def _try(self, http: httpx.AsyncClient, method: str, path: str, body: Any, key: str = "") -> httpx.Response | None:
        try:
            return await self._ask(http, method, path, "ada", body, key=key)
        except (httpx.HTTPError, KeyError):
            return None

    async def _ask(
        self,
        http: httpx.AsyncClient,
        method: str,
        path: str,
        user: str,
        body: Any,
        *,
        expected: int | None = None,
        key: str = "",
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {await self._token(http, user)}", **({"idempotency-key": key} if key else {})}
        answer = await http.request(method, path, json=body, headers=headers)
        if expected is not None:
            assert answer.status_code == expected, answer.text
        return answer

    async def _token(self, http: httpx.AsyncClient, user: str) -> str:
        token, good_until = self._tokens.get(user, ("", 0.0))
        if time.monotonic() < good_until:
            return token
        form = {"grant_type": "password", "username": user, "password": f"demo-only-{user}"}
        answer = await http.post("/auth/token", data=form)
        if answer.status_code != 200 and token:
            return token
        token = str(answer.json()["access_token"])
        self._tokens[user] = (token, time.monotonic() + 120)
        return token


class Killer:
    """Kills one process after the other, each time after the one before runs again; pauses lease holders, too."""

    def __init__(self, shop: Shop, findings: Findings) -> None:
        self._shop = shop
        self._findings = findings
        self._random = random.Random(f"{shop.plan.seed}/killer")
        self._pauses: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        names = sorted(one["name"] for one in self._shop.processes() if one["kind"] != "simulator")
        everyone = self._random.sample(names, len(names))
        for number in range(self._shop.plan.kills):
            name = everyone.pop() if everyone else self._random.choice(names)
            if number % 10 == 5:
                await self._pause(self._random.choice([name for name in names if name.startswith(("orders-", "inventory-"))]))
            else:
                await self._kill(name)
            await _wait(self._random.uniform(0.05, 0.4))
        if self._pauses:
            await asyncio.wait(self._pauses)
        restarts = sum(one["restarts"] for one in self._shop.processes())
        outside = sum(count for name, count in self._findings.killed.items() if "paused" not in name)
        self._findings.by_itself = max(0, restarts - outside)

    async def _kill(self, name: str) -> None:
        victim = self._shop.process(name)
        if victim is None or not _signal(victim["pid"], signal.SIGKILL):
            return
        self._findings.killed[name] += 1
        try:
            await until(lambda: self._runs_again(name, victim["pid"]), 60, f"{name} to run again")
        except AssertionError as late:
            told = (self._shop.folder / ".atoll" / "logs" / "host.log").read_text().splitlines()[-40:]
            raise AssertionError("\n".join([str(late), str(self._shop.process(name)), *told])) from None

    def _runs_again(self, name: str, former_pid: int) -> bool:
        now = self._shop.process(name)
        return now is not None and now["pid"] != former_pid and now["state"] == "ready"

    async def _pause(self, name: str) -> None:
        victim = self._shop.process(name)
        if victim is None or not _signal(victim["pid"], signal.SIGSTOP):
            return
        self._findings.killed[f"{name} (paused)"] += 1
        resume = asyncio.create_task(self._resume(victim["pid"]))
        self._pauses.add(resume)
        resume.add_done_callback(self._pauses.discard)

    async def _resume(self, pid: int) -> None:
        await _wait(_PAUSED_S)
        _signal(pid, signal.SIGCONT)


class Books:
    """Reads every service's own records once nothing moves any more, and compares them."""

    def __init__(self, shop: Shop, findings: Findings, scarce: str) -> None:
        self._shop = shop
        self._findings = findings
        self._scarce = scarce
        self.everybody_was_told = False  # then nothing was placed that nobody knows of
        self.bus_was_wiped = False  # then its streams can tell the order of what came later only

    async def settle(self, timeout_s: float = 120.0) -> None:
        """Until no order is pending and no event is under way."""
        orders = await _postgresql(self._shop.database_url("orders"))
        waiting: list[str] = []

        async def quiet() -> bool:
            pending = await orders.fetch("SELECT id FROM orders WHERE status = 'pending' LIMIT 5")
            waiting[:] = [f"order {row['id']} is pending" for row in pending] or await self._what_waits()
            return not waiting

        try:
            await until(quiet, timeout_s, "all orders to settle")
        except AssertionError:
            self._findings.wrong.append(f"not settled within {timeout_s:g} s: {waiting}")
        finally:
            await orders.close()

    async def _what_waits(self) -> list[str]:
        """In outboxes, parked, or on the bus."""
        found = []
        for service in ("orders", "inventory"):
            connection = await _postgresql(self._shop.database_url(service))
            try:
                for table in ("outbox", "parked"):
                    if count := await connection.fetchval(f"SELECT count(*) FROM atoll.{table}"):
                        found.append(f"{count} in {table} of {service}")
            finally:
                await connection.close()
        for service in ("payments", "notifications", "witness"):
            with contextlib.closing(self._shop.sqlite(service)) as books:
                for table in ("outbox", "parked"):
                    if count := books.execute(f"SELECT count(*) FROM atoll_{table}").fetchone()[0]:
                        found.append(f"{count} in {table} of {service}")
        return found or await self._what_lags()

    async def _what_lags(self) -> list[str]:
        found = []
        for service in PUBLISHERS:
            async with _administrator(self._shop, service) as stream:
                for consumer in await stream.consumers_info(service):
                    if consumer.num_pending or consumer.num_ack_pending:
                        found.append(
                            f"{consumer.name} of {service}: {consumer.num_pending} to come, {consumer.num_ack_pending} not "
                            f"acknowledged, {consumer.num_waiting} pulls, delivered up to {consumer.delivered}"
                        )
        return found

    async def reconcile(self) -> None:
        orders = await self._orders()
        self._findings.statuses.update(order["status"] for order in orders.values())
        lost = self._findings.accepted - orders.keys()
        self._findings.check(not lost, f"{len(lost)} acknowledged orders are gone: {sorted(lost)[:3]}")
        if self.everybody_was_told:
            doubled = orders.keys() - self._findings.accepted
            self._findings.check(not doubled, f"{len(doubled)} orders were placed twice: {sorted(doubled)[:3]}")
        await self._stock(orders)
        self._money(orders)
        self._witness(orders)
        self._messages(orders)
        await self._order()

    async def _orders(self) -> dict[str, dict[str, Any]]:
        connection = await _postgresql(self._shop.database_url("orders"))
        try:
            rows = await connection.fetch("SELECT id::text, status, lines::text, total FROM orders")
        finally:
            await connection.close()
        return {row["id"]: {**row, "lines": json.loads(row["lines"])} for row in rows}

    async def _stock(self, orders: dict[str, dict[str, Any]]) -> None:
        sold: Counter[str] = Counter()
        for order in orders.values():
            if order["status"] == "confirmed":
                sold.update({line["sku"]: line["quantity"] for line in order["lines"]})
        connection = await _postgresql(self._shop.database_url("inventory"))
        try:
            stock = await connection.fetch("SELECT sku, on_hand, reserved FROM stock")
            held = await connection.fetchval("SELECT count(*) FROM reservation WHERE state = 'held'")
        finally:
            await connection.close()
        for row in stock:
            initial = SCARCE if row["sku"] == self._scarce else PLENTY
            expected = initial - sold[row["sku"]]
            self._findings.check(row["on_hand"] == expected, f"stock of {row['sku']} is {row['on_hand']}, should be {expected}")
            self._findings.check(row["reserved"] == 0, f"{row['reserved']} of {row['sku']} are still reserved")
        self._findings.check(held == 0, f"{held} reservations outlived their order")

    def _money(self, orders: dict[str, dict[str, Any]]) -> None:
        """The provider's ledger: one approved charge for every confirmed order, none without a refund for a cancelled one."""
        entries = self._provider_entries()
        refunded = Counter(entry["charge"] for entry in entries if entry["kind"] == "refund")
        charges: dict[str, list[dict[str, Any]]] = {}
        for entry in entries:
            if entry["kind"] == "charge" and entry["status"] == "approved":
                charges.setdefault(entry["reference"], []).append(entry)
        for id, order in orders.items():
            made = charges.pop(id, [])
            kept = [charge for charge in made if not refunded[charge["id"]]]
            if order["status"] == "confirmed":
                self._findings.check(len(kept) == len(made) == 1, f"confirmed order {id} has {len(kept)} charges")
            else:
                self._findings.check(not kept, f"{order['status']} order {id} has {len(kept)} unrefunded charges")
        self._findings.check(not charges, f"charges for orders that do not exist: {list(charges)[:3]}")

    def _provider_entries(self) -> list[dict[str, Any]]:
        provider = next(one for one in self._shop.processes() if one["kind"] == "simulator")
        answer = httpx.get(f"http://127.0.0.1:{provider['port']}/ledger")
        entries: list[dict[str, Any]] = answer.json()["entries"]
        return entries

    def _witness(self, orders: dict[str, dict[str, Any]]) -> None:
        """Each event once, and those of one key in the order in which their service committed them."""
        with contextlib.closing(self._shop.sqlite("witness")) as books:
            entries = books.execute("SELECT event_id, type, order_id FROM entry ORDER BY position").fetchall()
        counted = Counter(event_id for event_id, _, _ in entries)
        self._findings.twice = sum(count - 1 for count in counted.values())
        self._findings.check(self._findings.twice == 0, f"{self._findings.twice} events counted twice")
        story: dict[str, set[str]] = {}
        for _, type_, order_id in entries:
            if type_.startswith("orders."):
                story.setdefault(order_id, set()).add(type_.removeprefix("orders.order_"))
        untold = [id for id, order in orders.items() if story.get(id) != {"placed", order["status"]}]
        self._findings.check(not untold, f"{len(untold)} orders were not told as they ended: {untold[:3]}")

    async def _order(self) -> None:
        """What was handled of a key is in the order in which its publisher committed it."""
        with contextlib.closing(self._shop.sqlite("witness")) as books:
            rows = books.execute("SELECT event_id, type, order_id FROM entry ORDER BY position").fetchall()
        handled: dict[tuple[str, str], list[str]] = {}
        for event_id, type_, order_id in rows:
            handled.setdefault((type_.split(".")[0], order_id), []).append(event_id)
        committed: dict[tuple[str, str], list[str]] = {}
        for service in ("orders", "inventory", "payments"):
            async for event_id, key in _stored(self._shop, service):
                known = committed.setdefault((service, key), [])
                if event_id not in known:  # published twice by a relay that died in between
                    known.append(event_id)
        if self.bus_was_wiped:
            stored = {id for ids in committed.values() for id in ids}
            handled = {key: [id for id in ids if id in stored] for key, ids in handled.items()}
        wrong = [pair[1] for pair in handled if handled[pair] != committed.get(pair, [])]
        self._findings.check(not wrong, f"the events of {len(wrong)} keys were handled in another order: {wrong[:3]}")

    def _messages(self, orders: dict[str, dict[str, Any]]) -> None:
        with contextlib.closing(self._shop.sqlite("notifications")) as books:
            count = books.execute("SELECT count(*) FROM messages").fetchone()[0]
        ended = sum(order["status"] != "pending" for order in orders.values())
        self._findings.check(count == ended, f"{count} messages for {ended} ended orders")


async def drill(plan: Plan, folder: Path, say: Callable[[str], None] = lambda line: None) -> Findings:
    """Runs `plan` on a shop in `folder`, which is down and reconciled when this returns."""
    shop, findings = Shop(folder, plan), Findings()
    shop.make()
    shop.up()
    try:
        async with _client(shop) as http:
            clients = Clients(shop, findings)
            await clients.prepare(http)
            await _narrow_duplicate_window(shop)
            say(f"{len(shop.processes())} processes run; {plan.kills} kills, seed {plan.seed}")
            stop = asyncio.Event()
            buying = asyncio.create_task(clients.run(http, stop))
            shop.dangerous.touch()
            try:
                await Killer(shop, findings).run()
            finally:
                shop.dangerous.unlink()
                stop.set()
                await buying
        say(f"{len(findings.accepted)} orders accepted; settling")
        books = Books(shop, findings, clients.scarce)
        books.everybody_was_told = not clients.given_up
        findings.check(not clients.given_up, f"{clients.given_up} orders were not answered within {_INSISTING_S:g} s")
        await books.settle()
        await books.reconcile()
    finally:
        shop.down()
    return findings


@contextlib.asynccontextmanager
async def _client(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
    async with httpx.AsyncClient(base_url=shop.url, timeout=20, limits=limits) as http:
        yield http


async def _narrow_duplicate_window(shop: Shop) -> None:
    """The bus forgets ids almost at once, so that what is published again is the inbox's to reject."""
    for service in PUBLISHERS:
        async with _administrator(shop, service) as stream:
            config = (await stream.stream_info(service)).config
            config.duplicate_window = shop.plan.duplicate_window_s
            await stream.update_stream(config)


@contextlib.asynccontextmanager
async def _administrator(shop: Shop, service: str) -> AsyncIterator[Any]:
    """JetStream with the rights of `service`'s administrator, through a client that is not ours."""
    import nats

    password = json.loads((shop.folder / ".atoll" / "secrets.json").read_text())[f"bus.{service}-admin"]
    bus = next(one for one in shop.processes() if one["kind"] == "bus")
    connection = await nats.connect(f"nats://127.0.0.1:{bus['port']}", user=f"{service}-admin", password=password)
    try:
        yield connection.jsm()
    finally:
        await connection.close()


async def _stored(shop: Shop, service: str) -> AsyncIterator[tuple[str, str]]:
    """(id, key) of every event in the stream, in order."""
    async with _administrator(shop, service) as stream:
        last = (await stream.stream_info(service)).state.last_seq
        for sequence in range(1, last + 1):
            headers = (await stream.get_msg(service, sequence)).headers or {}
            yield headers["ce-id"], headers["ce-partitionkey"]


async def _postgresql(url: str) -> Any:
    import asyncpg

    async def connect() -> Any:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            return await asyncpg.connect(url)

    return await until(connect, 30, "the database to take a connection")


async def _wait(duration_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), duration_s)


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def report(findings: Findings) -> str:
    answers = ", ".join(f"{status or 'no answer'}: {count}" for status, count in sorted(findings.answers.items()))
    lines = [
        f"killed      {findings.killed.total()}: "
        + ", ".join(f"{name} {count}" for name, count in findings.killed.most_common()),
        f"by itself   {findings.by_itself} at the worst moments",
        f"answers     {answers}",
        f"sent again  {findings.replayed} orders that had been placed, and nobody told",
        f"accepted    {len(findings.accepted)} orders; " + ", ".join(f"{k} {v}" for k, v in findings.statuses.items()),
        f"wrong       {len(findings.wrong)}",
        *(f"  - {line}" for line in findings.wrong),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.drill", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="atoll-drill-"))
    folder.chmod(0o755)
    findings = asyncio.run(drill(Plan(given.kills, given.seed), folder / "shop", print))
    print(report(findings))  # noqa: T201
    if findings.wrong:
        print(f"logs and databases are kept in {folder}")  # noqa: T201
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
