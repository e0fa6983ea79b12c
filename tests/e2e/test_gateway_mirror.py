"""Two versions behind a real Envoy: clients get the answers of one, and a report says how the other's differ."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from atoll.engines.process import Command, Process
from atoll.gateway.ir import Endpoint
from atoll.gateway.known import Known, MirrorEntry, ServiceEntry
from atoll.gateway.mirror.report import MOST_DIFFERENCES, Entry, Operation, Report
from atoll.gateway.mirror.samples import LIMIT_BYTES
from atoll.system.contract import Contract
from tests.support.gateway import ROOT, Rig, contract, gateway, known, load, replica
from tests.support.ports import free_port
from tests.support.tokens import Mint
from tests.support.versions import Reply, Version, versions
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MINT = Mint()
PUBLIC: dict[str, Any] = {"security": []}
READ: dict[str, Any] = {"security": [{"token": ["orders:read"]}]}
LEGACY = contract("legacy", {})
# It will have the path that legacy has now.
REVIEWS = contract(
    "reviews", {"/reviews": {"get": PUBLIC, "post": PUBLIC}, "/reviews/{sku}": {"get": PUBLIC, "delete": PUBLIC}}
)
# A second version whose paths differ by their prefix.
ORDERS = contract("orders", {"/orders/{id}": {"get": READ, "put": READ}, "/orders/all": {"get": PUBLIC}})
NEXT = contract("orders_next", {"/orders_next/{id}": {"get": READ, "put": READ}})
# Another with the same paths.
STOCK = contract("stock", {"/stock": {"get": PUBLIC}, "/stock/{sku}": {"get": PUBLIC}})
TWIN = contract("stock_next", {"/stock": {"get": PUBLIC}, "/stock/{sku}": {"get": PUBLIC}})
CONTRACTS = (LEGACY, REVIEWS, ORDERS, NEXT, STOCK, TWIN)
MIRRORS = {
    "carve_out": MirrorEntry(
        *("legacy", "reviews", ("/reviews",), 1.0),
        unsafe=("POST /reviews",),
        ignore=("header:x-build", "body:/generated_at", "body:/items/*/id"),
    ),
    "next": MirrorEntry("orders", "orders_next", share=1.0),
    "share": MirrorEntry("stock", "stock_next", share=0.2),
}


def _known(found: list[Version], contracts: tuple[Contract, ...] = CONTRACTS) -> Known:
    replicas = tuple(replica(of, f"{of.service}-1", one.address) for of, one in zip(contracts, found, strict=True))
    what = known(*contracts, replicas=replicas, fallback="legacy", mirrors=MIRRORS)
    services = {**what.system.services, "stock_next": ServiceEntry(kind="service", prefix="/stock", digests=(TWIN.digest,))}
    return replace(what, system=msgspec.structs.replace(what.system, services=services))


@dataclass
class Shop:
    """A gateway, three pairs of versions, and the process that compares them."""

    rig: Rig
    reports: Path
    comparer: Process
    http: httpx.AsyncClient
    legacy: Version
    reviews: Version
    orders: Version
    next: Version
    stock: Version
    twin: Version

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.http.request(method, self.rig.url + path, **more)

    def report(self, mirror: str) -> Report:
        return Report.read(self.reports / f"{mirror}.json") or Report(mirror, "", "", "")

    async def counted(self, mirror: str, operation: str, count: int = 1) -> Operation:
        """The operation's entry once so many samples of it were compared, failed or left out."""

        def found() -> Operation | None:
            one = self.report(mirror).operations.get(operation, Operation())
            return one if one.compared + one.second_failed + sum(one.not_comparable.values()) >= count else None

        return await until(found, what=f"{count} of {operation}") or Operation()

    def reset(self, mirror: str) -> None:
        """As `atoll mirror --reset` does it."""
        (self.reports / f"{mirror}.json").unlink(missing_ok=True)


def _comparer(folder: Path, root: Path, address: Endpoint) -> Process:
    environment = {
        "ATOLL_GATEWAY_DIR": str(root),
        "ATOLL_MIRROR_DIR": str(folder / "mirror"),
        "ATOLL_MIRROR_ADDRESS": str(address),
    }
    command = Command("mirror", (sys.executable, "-m", "atoll.gateway.mirror"), ROOT, folder / "mirror.log", environment)
    return Process.start(command)


async def _listens(address: Endpoint) -> bool:
    try:
        _reader, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def _shop(folder: Path) -> AsyncIterator[Shop]:
    address = Endpoint("127.0.0.1", free_port())
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(versions(len(CONTRACTS)))
        rig = await stack.enter_async_context(gateway(folder / "gateway", _known(found), MINT, address))
        comparer = _comparer(folder, rig.root, address)
        stack.callback(comparer.kill)
        await comparer.wait_ready(lambda: _listens(address))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        yield Shop(rig, folder / "mirror", comparer, http, *found)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with _shop(tmp_path_factory.mktemp("mirror")) as shop:
        yield shop


@pytest.fixture
def shop(whole: Shop) -> Shop:
    """Nothing was compared yet."""
    for mirror in MIRRORS:
        whole.reset(mirror)
    for version in (whole.legacy, whole.reviews, whole.orders, whole.next, whole.stock, whole.twin):
        version.expect(Reply())
    return whole


def _json(value: Any, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): one for name, one in headers.items()}
    return Reply(status, {"content-type": "application/json", **named}, json.dumps(value).encode())


def _found(operation: Operation) -> list[tuple[str, str, str, str]]:
    return sorted((one.kind, one.where, one.first, one.second) for one in operation.differences)


async def test_one_field_one_header_and_one_status_are_told(shop: Shop) -> None:
    shop.legacy.expect(lambda asked: _json({"sku": "mug", "stars": 4}, cache_control="no-store"))
    shop.reviews.expect(
        lambda asked: _json({"stars": 4.5, "sku": "mug"}, 404 if "cup" in asked.path else 200, cache_control="max-age=60")
    )

    answer = await shop.ask("GET", "/reviews/mug?page=1")
    await shop.ask("GET", "/reviews/cup")

    assert (answer.json(), answer.headers["cache-control"]) == ({"sku": "mug", "stars": 4}, "no-store")
    found = await shop.counted("carve_out", "GET /reviews/{sku}", 2)
    assert (found.same, found.different) == (0, 2)
    assert _found(found) == [
        ("body", "/stars", "4", "4.5"),
        ("header", "cache-control", "no-store", "max-age=60"),
        ("status", "", "200", "404"),
    ]
    assert {one.where: one.count for one in found.differences} == {"/stars": 2, "cache-control": 2, "": 1}
    assert _of(found, "status").request_id != answer.headers["x-request-id"]
    assert sorted(one.path for one in shop.reviews.seen) == ["/reviews/cup", "/reviews/mug?page=1"]


def _of(operation: Operation, kind: str) -> Entry:
    return next(one for one in operation.differences if one.kind == kind)


async def test_what_is_to_be_ignored_and_what_means_the_same_is_no_difference(shop: Shop) -> None:
    shop.legacy.expect(_json({"generated_at": "08:00", "items": [{"id": 1, "n": 1.0}]}, x_build="41", date="then"))
    shop.reviews.expect(_json({"items": [{"n": 1, "id": 2}], "generated_at": "09:00"}, x_build="42"))

    await shop.ask("GET", "/reviews")

    found = await shop.counted("carve_out", "GET /reviews")
    assert (found.same, found.differences) == (1, [])


async def test_the_same_place_in_a_list_is_one_difference_however_many_items_differ(shop: Shop) -> None:
    shop.legacy.expect(_json({"items": [{"n": n} for n in range(50)]}))
    shop.reviews.expect(_json({"items": [{"n": n + 1} for n in range(49)]}))

    await shop.ask("GET", "/reviews")

    found = await shop.counted("carve_out", "GET /reviews")
    assert [(one.where, one.count) for one in found.differences] == [("/items/*/n", 49), ("/items", 1)]


async def test_the_report_stays_small_whatever_differs(shop: Shop) -> None:
    shop.legacy.expect(_json({f"key{n}": "x" * 3_000 for n in range(60)}))
    shop.reviews.expect(_json({f"key{n}": "y" * 3_000 for n in range(60)}))

    await shop.ask("GET", "/reviews")

    found = await shop.counted("carve_out", "GET /reviews")
    assert (len(found.differences), found.unlisted) == (MOST_DIFFERENCES, 60 - MOST_DIFFERENCES)
    assert (shop.reports / "carve_out.json").stat().st_size < 20_000


async def test_an_operation_with_effects_is_sent_twice_only_where_a_person_has_said_so(shop: Shop) -> None:
    await shop.ask("POST", "/reviews/mug", content=b"not marked")
    await shop.ask("DELETE", "/reviews/mug")
    await shop.ask("POST", "/reviews", content=b"\x00\xff" * 50_000, headers={"content-type": "application/x-own"})

    await shop.counted("carve_out", "POST /reviews")
    await shop.ask("GET", "/reviews")
    await shop.counted("carve_out", "GET /reviews")
    assert [(one.method, one.path) for one in shop.reviews.seen] == [("POST", "/reviews"), ("GET", "/reviews")]
    assert shop.reviews.seen[0].body == b"\x00\xff" * 50_000
    assert shop.reviews.seen[0].headers["content-type"] == "application/x-own"
    assert len(shop.legacy.seen) == 4


async def test_what_a_client_reads_after_a_change_is_asked_after_the_change(shop: Shop) -> None:
    gate = asyncio.Event()
    shop.reviews.expect(lambda asked: Reply(when=gate if asked.method == "POST" else None))

    await shop.ask("POST", "/reviews")
    await shop.ask("GET", "/reviews")
    await shop.ask("GET", "/orders/all")
    try:
        await shop.counted("next", "GET /orders_next/{id}")
        early = [one.method for one in shop.reviews.seen]
    finally:
        gate.set()

    await shop.counted("carve_out", "GET /reviews")
    assert (early, [one.method for one in shop.reviews.seen]) == (["POST"], ["POST", "GET"])


async def test_other_paths_are_not_mirrored_and_no_client_reaches_the_second_service(shop: Shop) -> None:
    shop.legacy.expect(Reply(body=b"legacy"))
    shop.next.expect(Reply(body=b"next"))

    answers = [(await shop.ask("GET", path)).text for path in ("/basket", "/reviewsx", "/orders_next/7", "/reviews")]

    await shop.counted("carve_out", "GET /reviews")
    assert answers == ["legacy"] * 4
    assert [one.path for one in shop.reviews.seen] == ["/reviews"]
    assert shop.next.seen == []


async def test_the_second_version_gets_the_token_and_its_own_prefix(shop: Shop) -> None:
    token = MINT.token(sub="ada")

    refused = await shop.ask("GET", "/orders/7")
    await shop.ask("GET", "/orders/7?full=1", headers={"authorization": f"Bearer {token}", "x-atoll-mirror": "forged"})

    assert refused.status_code == 401
    found = await shop.counted("next", "GET /orders_next/{id}")
    (seen,) = shop.next.seen
    (first,) = shop.orders.seen
    assert (found.same, seen.path) == (1, "/orders_next/7?full=1")
    assert (seen.headers["authorization"], seen.headers["x-atoll-subject"]) == (f"Bearer {token}", "ada")
    assert seen.headers["x-request-id"] == first.headers["x-request-id"]
    assert (seen.headers["x-atoll-mirror"], "x-atoll-mirror" in first.headers) == ("next", False)


async def test_secrets_are_compared_and_never_shown(shop: Shop) -> None:
    shop.legacy.expect(
        _json({"access_token": "first-secret", "n": {"password": "third-secret"}}, set_cookie="id=fourth-secret")
    )
    shop.reviews.expect(_json({"access_token": "second-secret"}, set_cookie="other=fifth-secret"))

    await shop.ask("GET", "/reviews", headers={"authorization": "Bearer sixth-secret", "cookie": "a=seventh-secret"})

    found = await shop.counted("carve_out", "GET /reviews")
    assert _found(found) == [
        ("body", "/access_token", "***", "***"),
        ("body", "/n", '{"password":"***"}', "(absent)"),
        ("header", "set-cookie", "id", "other"),
    ]
    assert "secret" not in (shop.reports / "carve_out.json").read_text()


@pytest.mark.parametrize(
    ("first", "second", "method"),
    [
        (
            Reply(headers={"content-type": "text/plain"}, body=b"x" * 10),
            Reply(headers={"content-type": "text/plain"}, body=b"x" * 10),
            "HEAD",
        ),
        (Reply(304, {"etag": '"1"'}), Reply(304, {"etag": '"1"'}), "GET"),
        (Reply(500, body=b"broken"), Reply(500, body=b"broken"), "GET"),
        (Reply(chunks=(b"ab\x00", b"\xffcd")), Reply(body=b"ab\x00\xffcd"), "GET"),
        (Reply(headers={"content-encoding": "gzip"}, body=gzip.compress(b"packed")), Reply(body=b"packed"), "GET"),
        (Reply(204), Reply(204), "GET"),
    ],
    ids=["HEAD", "304", "500", "chunked", "packed", "204"],
)
async def test_answers_of_every_kind_are_compared(shop: Shop, first: Reply, second: Reply, method: str) -> None:
    shop.legacy.expect(first)
    shop.reviews.expect(second)

    answer = await shop.ask(method, "/reviews")

    found = await shop.counted("carve_out", f"{method} /reviews")
    assert (answer.status_code, found.same, _found(found)) == (first.status, 1, [])


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (Reply(headers={"content-type": "text/event-stream"}, chunks=(b"data: 1\n\n", b"data: 2\n\n")), Reply(), "streaming"),
        (Reply(body=b"x" * (LIMIT_BYTES + 1)), Reply(), "too_large"),
        (Reply(body=b"x"), Reply(body=b"x" * (LIMIT_BYTES + 1)), "too_large"),
        (Reply(headers={"content-encoding": "gzip"}, body=gzip.compress(b"x" * (LIMIT_BYTES + 1))), Reply(), "too_large"),
        (Reply(headers={"content-encoding": "br"}, body=b"\x00\x01"), Reply(), "encoded"),
        (Reply(503, body=b"down"), Reply(), "first_failed"),
        (Reply(304), Reply(body=b"whole"), "not_modified"),
    ],
    ids=["event-stream", "large", "second-large", "packed-large", "packed-unknown", "first-failed", "cached-by-client"],
)
async def test_what_cannot_be_compared_is_counted_and_reaches_the_client_whole(
    shop: Shop, first: Reply, second: Reply, why: str
) -> None:
    shop.legacy.expect(first)
    shop.reviews.expect(second)

    async with shop.http.stream("GET", f"{shop.rig.url}/reviews") as answer:
        body = b"".join([one async for one in answer.aiter_raw()])

    found = await shop.counted("carve_out", "GET /reviews")
    assert (answer.status_code, body) == (first.status, b"".join(first.chunks) or first.body)
    assert (found.compared, found.not_comparable) == (0, {why: 1})


@pytest.mark.parametrize(
    ("body", "other", "where", "values"),
    [
        (b"one two three", b"one 2 three", "byte 4", ("one two three", "one 2 three")),
        (b"", b"x", "", ("(empty)", "x")),
        (b"same start", b"same", "byte 4", ("same start", "same")),
    ],
)
async def test_other_bodies_are_compared_byte_by_byte(
    shop: Shop, body: bytes, other: bytes, where: str, values: tuple[str, str]
) -> None:
    shop.legacy.expect(Reply(body=body))
    shop.reviews.expect(Reply(body=other))

    await shop.ask("GET", "/reviews")

    assert _found(await shop.counted("carve_out", "GET /reviews")) == [("body", where, *values)]


async def test_a_second_service_that_is_down_is_told(shop: Shop) -> None:
    shop.legacy.expect(Reply(body=b"fine"))
    await shop.reviews.stop()
    try:
        assert (await shop.ask("GET", "/reviews")).text == "fine"
        found = await shop.counted("carve_out", "GET /reviews")
    finally:
        await shop.reviews.start()
    assert (found.compared, found.second_failed) == (0, 1)
    assert _found(found) == [("failure", "", "200", "no replica can be reached")]


async def test_about_the_share_that_was_asked_for_is_mirrored(shop: Shop) -> None:
    """A fifth of 300 is 60; by chance alone less than 25 or more than 100 would not happen in a lifetime."""
    for _ in range(300):
        await shop.ask("GET", "/stock/mug")

    def all_told() -> bool:
        report = shop.report("share")
        return report.dropped + sum(one.compared for one in report.operations.values()) >= len(shop.twin.seen) > 0

    await until(all_told)
    assert 25 <= len(shop.twin.seen) + shop.report("share").dropped <= 100
    assert len(shop.stock.seen) == 300


async def test_a_report_that_is_reset_begins_anew(shop: Shop) -> None:
    await shop.ask("GET", "/reviews")
    await shop.ask("GET", "/reviews")
    await shop.counted("carve_out", "GET /reviews", 2)

    shop.reset("carve_out")
    assert shop.report("carve_out").operations == {}

    await shop.ask("GET", "/reviews")
    assert (await shop.counted("carve_out", "GET /reviews")).same == 1


async def test_no_request_fails_while_the_comparing_process_is_dead(tmp_path: Path) -> None:
    async with _shop(tmp_path) as shop:
        shop.legacy.expect(Reply(body=b"fine" * 1000))
        async with load(lambda http: http.get(f"{shop.rig.url}/reviews/mug"), width=16) as traffic:
            await traffic.reach(50)
            await shop.counted("carve_out", "GET /reviews/{sku}")
            os.kill(shop.comparer.pid, signal.SIGKILL)
            await traffic.reach(300)

    assert traffic.failures == []


async def test_no_request_fails_while_the_comparing_process_hangs_and_what_it_missed_is_told(tmp_path: Path) -> None:
    async with _shop(tmp_path) as shop:
        shop.legacy.expect(Reply(body=b"fine" * 1000))
        async with load(lambda http: http.get(f"{shop.rig.url}/reviews/mug"), width=16) as traffic:
            await traffic.reach(50)
            await shop.counted("carve_out", "GET /reviews/{sku}")
            os.kill(shop.comparer.pid, signal.SIGSTOP)
            await traffic.reach(300)
            os.kill(shop.comparer.pid, signal.SIGCONT)
            await until(lambda: shop.report("carve_out").dropped, what="samples that are missing")

    assert traffic.failures == []


async def test_no_request_fails_while_the_comparing_process_answers_nonsense(tmp_path: Path) -> None:
    nonsense: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonsense.append(await reader.read(1000))
        writer.write(b"\x00\xff nonsense\r\n\r\n" * 100)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = Endpoint(*server.sockets[0].getsockname())
    async with (
        versions(len(CONTRACTS)) as found,
        gateway(tmp_path / "gateway", _known(found), MINT, address) as rig,
        load(lambda http: http.get(f"{rig.url}/reviews/mug"), width=16) as traffic,
    ):
        await traffic.reach(300)
    server.close()

    assert traffic.failures == []
    assert nonsense


async def test_no_request_fails_while_a_mirror_comes_and_goes(tmp_path: Path) -> None:
    """Without it the second service has its own paths, so it is who answers then."""
    async with _shop(tmp_path) as shop:
        with_mirror = shop.rig.known
        others = {name: one for name, one in MIRRORS.items() if name != "carve_out"}
        without = replace(with_mirror, system=msgspec.structs.replace(with_mirror.system, mirrors=others))
        shop.legacy.expect(Reply(body=b"legacy"))
        shop.reviews.expect(Reply(body=b"reviews"))
        async with load(lambda http: http.get(f"{shop.rig.url}/reviews/mug")) as traffic:
            for what, answer in [(without, "reviews"), (with_mirror, "legacy")]:
                await traffic.reach(30)
                await shop.rig.apply(what)
                assert (await shop.ask("GET", "/reviews/mug")).text == answer
                await traffic.reach(30)

    assert traffic.failures == []


async def test_what_was_counted_outlives_the_comparing_process(tmp_path: Path) -> None:
    async with _shop(tmp_path) as shop:
        await shop.ask("GET", "/reviews")
        await shop.counted("carve_out", "GET /reviews")
        shop.comparer.stop()
        address = shop.rig.listener.comparer
        assert address
        again = _comparer(tmp_path, shop.rig.root, address)
        try:
            await again.wait_ready(lambda: _listens(address))
            await shop.ask("GET", "/reviews")
            assert (await shop.counted("carve_out", "GET /reviews", 2)).same == 2
        finally:
            again.kill()
