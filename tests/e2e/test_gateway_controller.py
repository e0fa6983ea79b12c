"""The controller as a process of its own, between a real bus and a real Envoy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from atoll.bus.jetstream import JetStreamBus
from atoll.bus.ports import Message
from atoll.engines import nats as nats_engine
from atoll.engines.process import Command, Process
from atoll.gateway.files import replace_file, version
from atoll.gateway.known import Known, ServiceEntry, SystemEntry
from atoll.gateway.xds.folders import TYPES
from atoll.provision import nats
from atoll.provision.bus import Administrator
from atoll.system.contract import Contract
from atoll.system.plan import BusPlan
from tests.support.gateway import ROOT, Rig, Upstream, contract, gateway, load, replica, upstreams
from tests.support.ports import free_port
from tests.support.tokens import Mint
from tests.support.waiting import until

MINT = Mint()
OPEN_AND_TOKEN: dict[str, Any] = {"get": {"security": []}, "post": {"security": [{"token": []}]}}
ORDERS = contract("orders", {"/orders": OPEN_AND_TOKEN})
NEWER = contract("orders", {"/orders": OPEN_AND_TOKEN, "/orders/new": {"get": {"security": []}}})
# More than Envoy is told to take.
TOO_LONG = contract("orders", {"/orders": OPEN_AND_TOKEN, "/orders/{id}/" + 11_000 * "x": {"get": {"security": []}}})
LIMITED = contract("orders", {"/orders": {"get": {"security": [], "x-atoll-rate-limit": "8/h"}}})
AUTH = contract("auth", {"/auth/me": {"get": {"security": [{"token": []}]}}})
SYSTEM: dict[str, Any] = {
    "name": "shop",
    "public_url": "http://localhost:8080",
    "issuer": MINT.issuer,
    "audience": MINT.audience,
    "services": {"orders": {"kind": "service", "prefix": "/orders"}, "auth": {"kind": "service", "prefix": "/auth"}},
}


@dataclass
class World:
    """Everything that is there without services: bus, gateway, controller; `folder` is the test's."""

    folder: Path
    rig: Rig
    admin: Administrator
    bus: Process
    controller: Process
    http: httpx.AsyncClient

    async def announce(self, *contracts: Contract) -> None:
        await self.admin.announce(SYSTEM, {one.service: one for one in contracts})

    async def put(self, key: str, body: bytes, headers: bytes = b"") -> None:
        """An entry of the registry, as its service would write it."""
        async with self.as_user(key.partition(".")[0]) as bus:
            await bus.request(f"$KV.registry.{key}", body, headers)

    async def register(self, of: Contract, name: str, upstream: Upstream) -> None:
        entry = replica(of, name, upstream.address, time.time())
        await self.put(entry.key, json.dumps({field: getattr(entry, field) for field in entry.__struct_fields__}).encode())

    async def publish_keys(self, body: bytes, number: int = 1) -> None:
        async with self.as_user("auth") as bus:
            await bus.publish([Message("keys.set", f"Nats-Msg-Id: keys-{time.time_ns()}-{number}\r\n".encode(), body)])

    def as_user(self, user: str) -> _Connection:
        return _Connection(self.admin.server.url(user, self.admin.passwords[user]))

    @property
    def applied(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(Path(self.rig.folders.applied).read_bytes())
        except OSError:
            return {"endpoints": {}, "keys": [], "error": None, "version": 0}
        return found

    async def until_applied(self, *upstreams: Upstream) -> None:
        expected = sorted(one.address for one in upstreams)
        await until(lambda: sorted(self.applied["endpoints"].get("orders", [])) == expected, what=f"{expected} in applied.json")

    async def status(self, path: str, token: str = "") -> int:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return (await self.http.request("POST" if token else "GET", self.rig.url + path, headers=headers)).status_code

    async def until_status(self, status: int, path: str, token: str = "", timeout_s: float = 10.0) -> None:
        async def seen() -> bool:
            return await self.status(path, token) == status

        await until(seen, timeout_s, f"{status} at {path}")


class _Connection:
    def __init__(self, url: str) -> None:
        self._bus = JetStreamBus(url)

    async def __aenter__(self) -> JetStreamBus:
        await self._bus.start()
        assert await self._bus.wait_connected(5)
        return self._bus

    async def __aexit__(self, *_: object) -> None:
        await self._bus.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made: World | None = None
    async with AsyncExitStack() as stack:
        plan = BusPlan.of({"orders": ORDERS, "auth": AUTH})
        server = nats.BusServer("test", free_port(), tmp_path / "nats")
        admin = Administrator(plan, server, {user: f"pw-{user}" for user in nats.users(plan)})
        admin.write(tmp_path / "nats.conf")
        bus = _bus(tmp_path)
        stack.callback(lambda: made.bus.kill() if made else bus.kill())
        await bus.wait_ready(lambda: nats_engine.ready("127.0.0.1", server.port))
        await admin.apply(tmp_path / "nats.conf")
        start = Known(SystemEntry("shop", "http://localhost:8080", MINT.issuer, MINT.audience))
        rig = await stack.enter_async_context(gateway(tmp_path / "gateway", start))
        controller = _controller(rig, server.url("gateway", "pw-gateway"))
        stack.callback(lambda: made.controller.kill() if made else controller.kill())
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=20))
        made = World(tmp_path, rig, admin, bus, controller, http)
        yield made


def _controller(rig: Rig, bus_url: str) -> Process:
    environment = {
        "ATOLL_BUS_URL": bus_url,
        "ATOLL_GATEWAY_DIR": str(rig.root),
        "ATOLL_GATEWAY_PORT": str(rig.listener.port),
        "ATOLL_ENVOY_ADMIN": str(rig.admin),
    }
    arguments = (sys.executable, "-m", "atoll.gateway")
    return Process.start(Command("controller", arguments, ROOT, rig.root / "controller.log", environment))


@asynccontextmanager
async def _another_gateway(world: World) -> AsyncIterator[World]:
    """A second Envoy with a second controller, on the same bus."""
    start = Known(SystemEntry("shop", "http://localhost:8080", MINT.issuer, MINT.audience))
    async with gateway(world.folder / "second", start) as rig:
        controller = _controller(rig, world.admin.server.url("gateway", "pw-gateway"))
        try:
            yield World(world.folder, rig, world.admin, world.bus, controller, world.http)
        finally:
            controller.kill()


def _get(world: World) -> Any:
    return lambda http: http.get(world.rig.url + "/orders")


async def test_from_nothing_to_a_routed_service(world: World) -> None:
    assert await world.status("/orders") == 404

    await world.announce(ORDERS, AUTH)
    await world.until_status(503, "/orders")
    async with upstreams(world.folder, "orders-1") as (one,):
        await world.register(ORDERS, "orders-1", one)
        await world.until_status(200, "/orders")
        await world.until_status(401, "/orders", MINT.token())
        await world.publish_keys(MINT.key_set.serialize())
        await world.until_status(200, "/orders", MINT.token())

        await until(lambda: MINT.key.kid in world.applied["keys"])
        assert world.applied["endpoints"]["orders"] == [one.address]
        assert world.applied["error"] is None


async def test_a_new_operation_and_replicas_come_and_go(world: World) -> None:
    await world.announce(ORDERS, AUTH)
    async with upstreams(world.folder, "orders-1", "orders-2") as (one, two):
        await world.register(ORDERS, "orders-1", one)
        await world.until_status(200, "/orders")
        async with load(_get(world)) as traffic:
            await world.announce(NEWER, AUTH)
            await world.until_status(503, "/orders/new")
            await world.register(NEWER, "orders-2", two)
            await world.until_status(200, "/orders/new")
            await world.until_applied(one, two)
            await world.put("orders.orders-1", b"", b"KV-Operation: DEL\r\n")
            await world.until_applied(two)
            one.process.stop()
            await traffic.reach(100)

    assert traffic.failures == []


async def test_a_new_replica_gets_a_small_share_at_first_and_its_whole_share_when_the_time_is_over(world: World) -> None:
    """A tenth of what the other has, which is 6 of 66 requests; a half later."""
    await _announce_slow_start(world, 4)
    async with upstreams(world.folder, "orders-1", "orders-2") as (one, two):
        await world.register(ORDERS, "orders-1", one)
        await world.until_status(200, "/orders")
        there_before = time.monotonic() + 1.1
        await until(lambda: time.monotonic() > there_before)
        await world.register(ORDERS, "orders-2", two)
        await world.until_applied(one, two)
        await until(lambda: _has_answered(world, "orders-2"))
        at_first = await _share(world, "orders-2")

        async def half() -> bool:
            return 26 <= await _share(world, "orders-2") <= 40

        await until(half, 20)

    assert 1 <= at_first <= 16, "once they have answered 66 times"
    assert json.loads(Path(world.rig.folders.inputs).read_bytes())["fresh"] == []


async def _announce_slow_start(world: World, slow_start_s: float) -> None:
    services = {**SYSTEM["services"], "orders": {"prefix": "/orders", "failures": {"slow_start_s": slow_start_s}}}
    await world.admin.announce({**SYSTEM, "services": services}, {one.service: one for one in (ORDERS, AUTH)})


async def _has_answered(world: World, name: str) -> bool:
    return bool((await world.http.get(f"{world.rig.url}/orders")).json()["replica"] == name)


async def _share(world: World, name: str) -> int:
    """Of 66 requests, one after the other."""
    return sum([await _has_answered(world, name) for _ in range(66)])


async def test_what_cannot_be_read_changes_nothing(world: World) -> None:
    await world.announce(ORDERS, AUTH)
    async with upstreams(world.folder, "orders-1", "orders-2") as (one, two):
        await world.register(ORDERS, "orders-1", one)
        await world.publish_keys(MINT.key_set.serialize())
        await world.until_status(200, "/orders", MINT.token())
        for number, rubbish in enumerate((b"", b"{", b"[]", b"\xff", b'{"keys": 7}')):
            await world.put("orders.orders-1", rubbish)
            await world.publish_keys(rubbish, number)
        await world.register(ORDERS, "orders-2", two)  # the controller has seen all of the above when it has seen this
        await world.until_applied(one, two)

        assert await world.status("/orders", MINT.token()) == 200


async def test_traffic_goes_on_without_controller_and_bus_and_nothing_is_forgotten(world: World) -> None:
    await world.announce(ORDERS, AUTH)
    async with upstreams(world.folder, "orders-1", "orders-2") as (one, two):
        await world.register(ORDERS, "orders-1", one)
        await world.until_applied(one)
        await world.until_status(200, "/orders")
        async with load(_get(world)) as traffic:
            world.controller.kill()
            await traffic.reach(50)
            world.bus.kill()
            # A controller that starts while the bus is down goes on from its own disk.
            world.controller = _controller(world.rig, world.admin.server.url("gateway", "pw-gateway"))
            await traffic.reach(50)
            await world.until_applied(one)  # it reports after Envoy has confirmed
            await _restart_bus_wiped(world)
            await traffic.reach(50)
            await world.register(ORDERS, "orders-2", two)
            await world.until_applied(one, two)
            await traffic.reach(50)

    assert traffic.failures == []


async def test_a_controller_that_knows_nothing_leaves_envoy_alone(world: World) -> None:
    await world.announce(ORDERS, AUTH)
    async with upstreams(world.folder, "orders-1") as (one,):
        await world.register(ORDERS, "orders-1", one)
        await world.until_status(200, "/orders")
        world.controller.kill()
        world.bus.kill()
        Path(world.rig.folders.inputs).write_bytes(b"half of a fi")
        world.controller = _controller(world.rig, world.admin.server.url("gateway", "pw-gateway"))
        async with load(_get(world)) as traffic:
            log = world.rig.root / "controller.log"
            await until(lambda: "waiting for the bus" in log.read_text(), what="a controller without memory")
            await traffic.reach(300)
        assert traffic.failures == []
        await _restart_bus_wiped(world)
        await world.announce(NEWER, AUTH)
        await world.register(NEWER, "orders-1", one)
        await world.until_status(200, "/orders/new")


async def _restart_bus_wiped(world: World) -> None:
    shutil.rmtree(world.admin.server.store)
    world.bus = _bus(world.folder)
    await world.bus.wait_ready(lambda: nats_engine.ready("127.0.0.1", world.admin.server.port))
    await world.admin.apply(world.folder / "nats.conf")


def _bus(folder: Path) -> Process:
    return Process.start(nats_engine.command(nats_engine.find(), folder / "nats.conf", folder / "nats.log"))


async def test_envoy_may_die_and_come_back(world: World) -> None:
    await world.announce(ORDERS, AUTH)
    async with upstreams(world.folder, "orders-1", "orders-2") as (one, two):
        await world.register(ORDERS, "orders-1", one)
        await world.until_applied(one)
        world.rig.process.kill()
        await world.register(ORDERS, "orders-2", two)
        await until(lambda: world.applied["error"])
        world.rig.process = Process.start(world.rig.process.command)
        await world.rig.wait_ready()
        await world.until_applied(one, two)

        assert await world.status("/orders") == 200
        assert world.applied["error"] is None


async def test_sigterm_ends_the_controller_and_leaves_envoy_alone(world: World) -> None:
    await world.announce(ORDERS, AUTH)
    await world.until_status(503, "/orders")

    os.kill(world.controller.pid, signal.SIGTERM)
    await until(lambda: not world.controller.running)

    assert await world.status("/orders") == 503


async def test_two_gateways_together_let_a_client_do_what_one_would(world: World) -> None:
    await world.announce(LIMITED, AUTH)
    async with upstreams(world.folder, "orders-1") as (one,), _another_gateway(world) as second:
        await world.register(LIMITED, "orders-1", one)
        both = (world, second)
        for gateway_ in both:
            await gateway_.until_applied(one)
        await until(lambda: all(gateway_.applied["gateways"] == 2 for gateway_ in both), what="two gateways")

        statuses = [await gateway_.status("/orders") for _ in range(8) for gateway_ in both]

        assert statuses == [200] * 8 + [429] * 8


async def test_a_limit_outlives_the_controller_and_the_other_gateway(world: World) -> None:
    await world.announce(LIMITED, AUTH)
    async with upstreams(world.folder, "orders-1") as (one,):
        await world.register(LIMITED, "orders-1", one)
        await world.until_applied(one)
        assert [await world.status("/orders") for _ in range(9)] == [200] * 8 + [429]
        async with _another_gateway(world):
            await until(lambda: world.applied["gateways"] == 2)
            world.controller.kill()
            version = world.applied["version"]
            world.controller = _controller(world.rig, world.admin.server.url("gateway", "pw-gateway"))
            await until(lambda: world.applied["version"] > version)
            assert await world.status("/orders") == 429
        await _forget_others(world)
        await until(lambda: world.applied["gateways"] == 1)

        assert await world.status("/orders") == 429


async def _forget_others(world: World) -> None:
    """As who operates the system does after it has taken a gateway away for good."""
    async with world.as_user("gateway") as bus:
        entries = await bus.latest(nats.REGISTRY, "$KV.registry.gateway.>")
        others = [one.subject for one in entries if str(world.rig.listener.port) not in one.subject]
        for subject in others:
            await bus.request(subject, b"", b"KV-Operation: DEL\r\n")


def _files(world: World) -> dict[str, bytes]:
    return {kind: Path(world.rig.folders.file(kind)).read_bytes() for kind in TYPES}


@pytest.mark.parametrize("harm", ["edited", "broken", "removed"])
async def test_a_file_that_somebody_else_changed_is_told_and_put_right_under_load(world: World, harm: str) -> None:
    await world.announce(ORDERS, AUTH)
    async with upstreams(world.folder, "orders-1") as (one,):
        await world.register(ORDERS, "orders-1", one)
        await world.until_applied(one)
        before, table = _files(world), Path(world.rig.folders.file("rds"))
        async with load(_get(world)) as traffic:
            if harm == "edited":
                content = table.read_bytes()
                edited = content.replace(version(content).encode(), b"0" * 16).replace(b"This path", b"That path")
                replace_file(table, edited)
            elif harm == "broken":
                replace_file(table, b"{")
            else:
                table.unlink()
            await until(lambda: (world.applied["drift"] or {}).get("healed"), what="drift put right")
            await traffic.reach(20)

        assert traffic.failures == []
        assert _files(world) == before
        assert any("rds.pb" in what for what in world.applied["drift"]["what"])
        log = (world.rig.root / "controller.log").read_text()
        assert log.count("drift: ") == 1
        assert "This path" in (await world.http.put(world.rig.url + "/orders")).text


async def test_a_contract_that_envoy_refuses_is_told_and_holds_up_nobody_else(world: World) -> None:
    await world.announce(ORDERS, AUTH)
    async with upstreams(world.folder, "orders-1", "auth-1") as (one, other):
        await world.register(ORDERS, "orders-1", one)
        await world.until_status(200, "/orders")
        async with load(_get(world)) as traffic:
            await world.announce(TOO_LONG, AUTH)
            await until(lambda: world.applied.get("faults"), what="a fault in applied.json")
            (fault,) = world.applied["faults"]
            assert fault.startswith(f"orders: the contract {TOO_LONG.digest} is left out, the routes before it stay: ")
            assert "regex" in fault
            assert world.applied["error"] is None
            # Its own replicas, other services, keys: all of them go on.
            await world.register(TOO_LONG, "orders-1", one)
            await world.register(AUTH, "auth-1", other)
            await world.publish_keys(MINT.key_set.serialize())
            await world.until_status(200, "/orders", MINT.token())
            await until(lambda: world.applied["endpoints"]["auth"] == [other.address], what="auth-1")
            # A controller that starts again does not judge it again.
            version = world.applied["version"]
            world.controller.kill()
            world.controller = _controller(world.rig, world.admin.server.url("gateway", "pw-gateway"))
            await until(lambda: world.applied["version"] > version, what="a report of the new controller")
            assert world.applied["faults"] == [fault]
            await traffic.reach(20)
            assert await world.status("/orders/new") == 404

            await world.announce(NEWER, AUTH)
            await world.until_status(503, "/orders/new")
            await world.register(NEWER, "orders-1", one)
            await world.until_status(200, "/orders/new")

        assert traffic.failures == []


async def test_what_the_system_says_and_envoy_refuses_is_told_and_holds_up_no_key_and_no_replica(world: World) -> None:
    await world.announce(ORDERS, AUTH)
    await world.until_status(503, "/orders")
    async with upstreams(world.folder, "orders-1") as (one,):
        await world.admin.announce({**SYSTEM, "max_header_size_kib": 100_000}, {"orders": ORDERS, "auth": AUTH})
        await until(lambda: "Envoy refuses this change" in (world.applied["error"] or ""), what="a refusal in applied.json")

        await world.register(ORDERS, "orders-1", one)
        await world.publish_keys(MINT.key_set.serialize())
        await world.until_status(200, "/orders", MINT.token())
        await until(lambda: "Envoy refuses this change" in (world.applied["error"] or ""), what="it is still told")

        await world.announce(NEWER, AUTH)
        await world.until_status(503, "/orders/new")
        await until(lambda: world.applied["error"] is None, what="a report without an error")


async def test_a_system_that_starts_with_what_envoy_refuses_serves_everything_else(world: World) -> None:
    """The files as they were written by somebody who could not ask Envoy."""
    await world.announce(TOO_LONG, AUTH)
    world.controller.kill()
    world.rig.process.kill()
    services = {name: ServiceEntry("service", f"/{name}") for name in ("orders", "auth")}
    listed = {one.service: replace(services[one.service], digests=(one.digest,)) for one in (TOO_LONG, AUTH)}
    world.rig.known = Known(
        SystemEntry("shop", "http://localhost:8080", MINT.issuer, MINT.audience, listed),
        contracts={f"{one.service}.{one.digest}": one for one in (TOO_LONG, AUTH)},
    )
    world.rig.start()
    await world.rig.wait_ready()
    assert await world.status("/auth/me") == 404

    world.controller = _controller(world.rig, world.admin.server.url("gateway", "pw-gateway"))

    await world.until_status(401, "/auth/me", timeout_s=30)
    await until(lambda: any("it has no routes" in fault for fault in world.applied.get("faults", ())), what="a fault")


async def test_a_directory_that_somebody_removes_costs_no_request_and_no_controller(world: World) -> None:
    await world.announce(ORDERS, AUTH)
    async with upstreams(world.folder, "orders-1") as (one,):
        await world.register(ORDERS, "orders-1", one)
        await world.until_status(200, "/orders")
        await world.until_applied(one)
        before = _files(world)
        log = world.rig.root / "controller.log"
        async with load(_get(world)) as traffic:
            shutil.rmtree(world.rig.folders.directory("rds"))
            await until(lambda: "end Envoy, so that it starts again" in log.read_text(), 30, "what has to be done")
            await traffic.reach(20)
        assert traffic.failures == []
        assert _files(world) == before
        assert world.controller.running

        world.rig.process.stop()
        world.rig.process = Process.start(world.rig.process.command)
        await world.rig.wait_ready()
        await world.announce(NEWER, AUTH)
        await world.until_status(503, "/orders/new")
        await until(lambda: world.applied["error"] is None, what="the report, which comes after Envoy's first answer")
        await until(lambda: world.applied["drift"]["healed"], what="drift put right")
        # Not counted is that Envoy does not answer, which is told when a look falls into its start.
    assert log.read_text().count("could not be put right: Envoy can't see") == 1


@pytest.mark.parametrize("gone", ["controller", "bus", "both"])
async def test_an_envoy_that_starts_while_others_are_gone_has_the_last_good_state(world: World, gone: str) -> None:
    """Whoever is gone: clients get what they got, with the tokens that were good."""
    await world.announce(ORDERS, AUTH)
    async with upstreams(world.folder, "orders-1") as (one,):
        await world.register(ORDERS, "orders-1", one)
        await world.publish_keys(MINT.key_set.serialize())
        await world.until_status(200, "/orders", MINT.token())
        await world.until_applied(one)
        async with load(_get(world)) as traffic:
            if gone != "bus":
                world.controller.kill()
            if gone != "controller":
                world.bus.kill()
            await traffic.reach(50)
        assert traffic.failures == []

        world.rig.process.kill()
        world.rig.process = Process.start(world.rig.process.command)
        await world.rig.wait_ready()
        await world.until_status(200, "/orders", MINT.token())
        assert await world.status("/orders") == 200
        async with load(_get(world)) as traffic:
            await traffic.reach(50)
        assert traffic.failures == []
