"""What happens to a request: routes, tokens, bodies, results, errors, transactions."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import httpx
import msgspec
import pytest
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse

from atoll import Body, Conflict, Event, NotFound, Outage, Page, Principal, Refused, Request, Response, Service
from atoll.database.sqlite import Database
from atoll.service import context
from atoll.sqlite import Transaction
from tests.support.services import bearer, serving


class Line(msgspec.Struct, forbid_unknown_fields=True):
    sku: str
    quantity: Annotated[int, msgspec.Meta(ge=1)]


class NewOrder(msgspec.Struct, forbid_unknown_fields=True):
    lines: list[Line]
    payment_method: str


class Placed(Event, name="placed", key="id"):
    id: str


class Unencodable:
    pass


class SoldOut(Refused, status=409, code="sold_out"):
    """There is nothing left."""


# routes


async def test_literal_segments_beat_parameters_and_both_can_go_on() -> None:
    service = Service("orders")

    @service.get("/orders/{id}", public=True)
    async def one(id: str) -> str:
        return f"one {id}"

    @service.get("/orders/latest", public=True)
    async def latest() -> str:
        return "latest"

    @service.get("/orders/latest/lines", public=True)
    async def latest_lines() -> str:
        return "latest lines"

    @service.get("/orders/{id}/notes/{number}", public=True)
    async def note(id: str, number: int) -> str:
        return f"{id} {number}"

    @service.get("/orders/files/{rest:path}", public=True)
    async def file(rest: str) -> str:
        return f"file {rest}"

    async with serving(service) as client:
        answers = {
            path: (await client.get(path)).json()
            for path in ("/orders/7", "/orders/latest", "/orders/latest/lines", "/orders/latest/notes/2", "/orders/files/a/b")
        }

    assert answers == {
        "/orders/7": "one 7",
        "/orders/latest": "latest",
        "/orders/latest/lines": "latest lines",
        "/orders/latest/notes/2": "latest 2",
        "/orders/files/a/b": "file a/b",
    }


async def test_an_escaped_slash_is_part_of_its_segment() -> None:
    service = Service("catalog")

    @service.get("/catalog/{sku}", public=True)
    async def product(sku: str) -> str:
        return sku

    async with serving(service) as client:
        assert (await client.get("/catalog/a%2Fb%20c")).json() == "a/b c"
        assert (await client.get("/catalog/a/b")).status_code == 404


async def test_an_unknown_path_is_a_404_and_a_wrong_verb_a_405_that_names_the_right_ones() -> None:
    service = Service("orders")

    @service.get("/orders", public=True)
    async def orders() -> None: ...

    @service.post("/orders", public=True)
    async def place() -> None: ...

    async with serving(service) as client:
        unknown = await client.get("/ordres")
        wrong = await client.delete("/orders")

    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET, HEAD, POST"
    assert wrong.headers["content-type"] == "application/problem+json"


async def test_head_is_its_get_without_a_body() -> None:
    service = Service("orders")

    @service.get("/orders", public=True)
    async def orders() -> list[int]:
        return [1, 2, 3]

    async with serving(service) as client:
        head = await client.head("/orders")

    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "7")


# tokens


async def test_a_token_is_required_unless_an_operation_is_public() -> None:
    service = Service("orders")

    @service.get("/orders")
    async def orders(me: Principal) -> str:
        return me.id

    @service.get("/open", public=True)
    async def open_to_all(me: Principal | None) -> str:
        return me.id if me else "nobody"

    async with serving(service) as client:
        without = await client.get("/orders")
        basic = await client.get("/orders", headers={"authorization": "Basic YTpi"})
        expired = await client.get("/orders", headers={"authorization": "Bearer expired"})
        good = await client.get("/orders", headers=bearer("alice"))
        nobody = await client.get("/open")
        somebody = await client.get("/open", headers=bearer("bob"))

    assert (without.status_code, without.headers["www-authenticate"]) == (401, "Bearer")
    assert basic.status_code == 401
    assert (expired.status_code, expired.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    assert good.json() == "alice"
    assert (nobody.json(), somebody.json()) == ("nobody", "bob")


async def test_a_scope_is_required_where_one_is_declared() -> None:
    service = Service("orders")

    @service.post("/orders", scope="orders:write")
    async def place() -> None: ...

    async with serving(service) as client:
        without = await client.post("/orders", headers=bearer("alice", "orders:read"))
        with_it = await client.post("/orders", headers=bearer("alice", "orders:read", "orders:write"))

    assert (without.status_code, without.json()["code"]) == (403, "forbidden")
    assert 'scope="orders:write"' in without.headers["www-authenticate"]
    assert with_it.status_code == 204


# bodies


def shop() -> Service:
    service = Service("orders")

    @service.post("/orders/{number}", public=True)
    async def place(number: int, order: NewOrder, dry: bool = False) -> NewOrder:
        return order

    return service


async def test_a_right_body_becomes_the_struct_and_the_result_json() -> None:
    body = {"lines": [{"sku": "tea", "quantity": 2}], "payment_method": "card-ok"}
    async with serving(shop()) as client:
        answer = await client.post("/orders/1", json=body)

    assert (answer.status_code, answer.json()) == (201, body)
    assert answer.headers["content-type"] == "application/json"


async def test_every_fault_of_path_query_and_body_is_named_in_one_answer() -> None:
    body = {"lines": [{"sku": "tea", "quantity": 0}, {"sku": 5, "quantity": 1, "colour": "red"}]}
    async with serving(shop()) as client:
        answer = await client.post("/orders/first?dry=perhaps", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["errors"] == [
        {"field": "number", "detail": "Expected `int`, got `str`"},
        {"field": "lines[0].quantity", "detail": "Expected `int` >= 1"},
        {"field": "lines[1].sku", "detail": "Expected `str`, got `int`"},
        {"field": "lines[1].colour", "detail": "is not known here"},
        {"field": "payment_method", "detail": "is required"},
        {"field": "dry", "detail": "Expected `bool`, got `str`"},
    ]


@pytest.mark.parametrize("body", [b"", b"{", b'{"lines": [}', b"\xff\xfe", b"{} {}", b"[" * 100_000])
async def test_a_body_that_is_not_json_is_malformed(body: bytes) -> None:
    async with serving(shop()) as client:
        answer = await client.post("/orders/1", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


async def test_a_body_that_is_malformed_after_a_fault_is_malformed() -> None:
    async with serving(shop()) as client:
        answer = await client.post("/orders/1", content=b'{"lines": 3, "payment')

    assert answer.json()["code"] == "malformed"


async def test_a_content_type_that_is_not_taken_is_a_415() -> None:
    async with serving(shop()) as client:
        form = await client.post("/orders/1", data={"a": "b"})
        json_api = await client.post("/orders/1", content=b"{}", headers={"content-type": "application/vnd.api+json; a=b"})

    assert (form.status_code, form.json()["code"]) == (415, "unsupported_media_type")
    assert json_api.status_code == 422


async def test_a_body_over_the_limit_is_a_413_whether_or_not_it_says_so_first() -> None:
    service = Service("orders")

    @service.post("/small", public=True, body_limit_bytes=10)
    async def small(body: Annotated[bytes, Body()]) -> int:
        return len(body)

    @service.post("/own", public=True, body_limit_bytes=10)
    async def own(request: Request) -> int:
        return len(await request.body())

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"12345"

    async with serving(service) as client:
        fits = await client.post("/small", content=b"1234567890")
        announced = await client.post("/small", content=b"12345678901")
        streamed = await client.post("/small", content=pieces())
        read_by_handler = await client.post("/own", content=pieces())

    assert fits.json() == 10
    assert [one.status_code for one in (announced, streamed, read_by_handler)] == [413, 413, 413]


async def test_a_body_takes_a_megabyte_unless_told_otherwise() -> None:
    async with serving(shop()) as client:
        answer = await client.post("/orders/1", content=b'"' + b"x" * (1 << 20) + b'"')

    assert answer.status_code == 413


# results


async def test_results_are_encoded_as_their_types_say() -> None:
    service = Service("orders")

    class Price(msgspec.Struct):
        amount: Decimal
        of: UUID

    @service.get("/prices", public=True)
    async def prices() -> Page[Price]:
        return Page([Price(Decimal("1.10"), UUID(int=1))], next="2")

    async with serving(service) as client:
        answer = await client.get("/prices")

    assert answer.json() == {"items": [{"amount": "1.10", "of": "00000000-0000-0000-0000-000000000001"}], "next": "2"}


async def test_a_response_is_sent_as_it_is() -> None:
    service = Service("orders")

    async def events() -> AsyncIterator[bytes]:
        for number in range(3):
            yield f"data: {number}\n\n".encode()

    @service.get("/json", public=True)
    async def own_json() -> Response:
        return JSONResponse({"a": 1}, 418, {"x-own": "1"})

    @service.get("/away", public=True)
    async def away() -> RedirectResponse:
        return RedirectResponse("/elsewhere", 303)

    @service.get("/stream", public=True)
    async def stream() -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    async with serving(service) as client:
        own, redirect, streamed = await client.get("/json"), await client.get("/away"), await client.get("/stream")

    assert (own.status_code, own.headers["x-own"], own.json()) == (418, "1", {"a": 1})
    assert (redirect.status_code, redirect.headers["location"]) == (303, "/elsewhere")
    assert streamed.text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert {one.id: one.streaming for one in service.operations} == {"own_json": False, "away": False, "stream": True}


async def test_a_plain_function_runs_beside_the_event_loop_with_the_calls_context() -> None:
    service = Service("orders")
    seen: list[tuple[int, str]] = []

    @service.get("/plain", public=True)
    def plain() -> str:
        seen.append((threading.get_ident(), context.current().request_id))
        return "done"

    async with serving(service) as client:
        answer = await client.get("/plain", headers={"x-request-id": "abc"})

    assert answer.json() == "done"
    assert seen[0][0] != threading.get_ident()
    assert seen[0][1] == "abc"


# errors


async def test_errors_are_problems_and_the_services_own_keep_their_code_hint_and_details() -> None:
    service = Service("orders")
    raised: dict[str, Exception] = {
        "missing": NotFound("there is no order 7"),
        "conflict": Conflict("it was cancelled", hint="place another"),
        "own": SoldOut(left=0),
        "direct": Refused(429, "too_often", "Wait a moment"),
    }

    @service.get("/raise/{what}", public=True, raises=[SoldOut])
    async def fail(what: str) -> None:
        raise raised[what]

    async with serving(service) as client:
        answers = {what: await client.get(f"/raise/{what}", headers={"x-request-id": "r-1"}) for what in raised}

    assert {what: one.status_code for what, one in answers.items()} == {
        "missing": 404,
        "conflict": 409,
        "own": 409,
        "direct": 429,
    }
    assert answers["own"].json() == {
        "type": "/problems/sold_out",
        "title": "Conflict",
        "status": 409,
        "code": "sold_out",
        "detail": "There is nothing left.",
        "details": {"left": 0},
        "request_id": "r-1",
    }
    assert answers["conflict"].json()["hint"] == "place another"
    assert answers["missing"].headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b", "a\nb", "a\rb"])
async def test_a_header_of_a_response_never_becomes_two(value: str) -> None:
    service = Service("orders", database=None)

    @service.get("/split", public=True)
    async def split() -> Response:
        return Response(b"", headers={"x": value})

    async with serving(service) as client:
        answer = await client.get("/split")

    assert (answer.status_code, answer.json()["code"]) == (500, "bug")
    assert "x" not in answer.headers


async def test_an_unexpected_error_leaks_nothing_and_logs_everything(caplog: pytest.LogCaptureFixture) -> None:
    service = Service("orders")

    @service.get("/broken", public=True)
    async def broken() -> None:
        password = "hunter2"
        raise RuntimeError(f"can't connect with {password}")

    async with serving(service) as client:
        answer = await client.get("/broken")

    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "hunter2" not in answer.text
    assert "RuntimeError" not in answer.text
    record = next(one for one in caplog.records if one.levelno == logging.ERROR)
    assert record.exc_info is not None
    assert "hunter2" in str(record.exc_info[1])


async def test_an_outage_is_a_503_that_tells_nothing_of_the_inside() -> None:
    service = Service("orders")

    @service.get("/down", public=True)
    async def down() -> None:
        raise Outage("postgresql://orders:secret@db is down")

    async with serving(service) as client:
        answer = await client.get("/down")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "secret" not in answer.text


async def test_a_handler_that_takes_too_long_is_a_504() -> None:
    service = Service("orders")
    cancelled: list[bool] = []

    @service.get("/slow", public=True, timeout_s=0.02)
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    @service.get("/own", public=True)
    async def own_timeout() -> None:
        raise TimeoutError

    async with serving(service) as client:
        late, own = await client.get("/slow"), await client.get("/own")

    assert (late.status_code, late.json()["code"], cancelled) == (504, "handler_timeout", [True])
    assert (own.status_code, own.json()["code"]) == (500, "internal")


# transactions


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    (migrations / "0001_orders.sql").write_text("CREATE TABLE orders (id TEXT PRIMARY KEY)")
    database = Database(f"sqlite://{tmp_path}/orders.sqlite", transactional().encode)
    await database.open()
    await database.migrate(migrations)
    yield database
    await database.close()


def transactional() -> Service:
    service = Service("orders", database="sqlite", publishes=[Placed])

    @service.put("/orders/{id}", public=True)
    async def place(id: str, tx: Transaction, then: str = "") -> Any:
        await tx.execute("INSERT INTO orders VALUES ($1)", id)
        await tx.publish(Placed(id))
        if then == "raise":
            raise Conflict("changed my mind")
        if then == "crash":
            raise RuntimeError("crash")
        return Unencodable() if then == "unencodable" else id

    @service.get("/orders", public=True)
    async def orders(tx: Transaction, write: bool = False) -> list[str]:
        if write:
            await tx.execute("INSERT INTO orders VALUES ('sneaked')")
        return [row["id"] for row in await tx.all(dict[str, str], "SELECT id FROM orders ORDER BY id")]

    return service


async def placed(client: httpx.AsyncClient) -> list[str]:
    found: list[str] = (await client.get("/orders")).json()
    return found


async def test_returning_commits_the_change_and_its_event_together(database: Database) -> None:
    async with serving(transactional(), database) as client:
        answer = await client.put("/orders/a")
        found = await placed(client)

    assert (answer.status_code, found) == (200, ["a"])
    assert [row.subject for row in await database.journal.outbox(10)] == ["event.orders.placed.0"]


@pytest.mark.parametrize(("then", "status"), [("raise", 409), ("crash", 500), ("unencodable", 500)])
async def test_any_exception_rolls_back_the_change_and_its_event(database: Database, then: str, status: int) -> None:
    async with serving(transactional(), database) as client:
        answer = await client.put(f"/orders/a?then={then}")
        found = await placed(client)

    assert (answer.status_code, found) == (status, [])
    assert await database.journal.outbox(10) == []


async def test_a_get_can_not_write(database: Database) -> None:
    async with serving(transactional(), database) as client:
        answer = await client.get("/orders?write=true")
        found = await placed(client)

    assert (answer.status_code, found) == (500, [])


class SlowToCommit(Database):
    """A real database whose commits begin late."""

    @asynccontextmanager
    async def transaction(self, *, patient: bool = False) -> AsyncIterator[Transaction]:
        async with super().transaction(patient=True) as tx:
            yield tx
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 0.1)


async def test_a_handler_that_was_in_time_is_not_interrupted_while_it_commits(database: Database) -> None:
    service = Service("orders", database="sqlite", publishes=[Placed])

    @service.put("/orders/{id}", public=True, timeout_s=0.05)
    async def place(id: str, tx: Transaction) -> str:
        await tx.execute("INSERT INTO orders VALUES ($1)", id)
        return id

    slow = SlowToCommit(f"sqlite://{database.path}", service.encode)
    await slow.open()
    async with serving(service, slow) as client:
        answer = await client.put("/orders/a")
    await slow.close()

    async with database.reader() as reader:
        assert (answer.status_code, await reader.scalar("SELECT id FROM orders")) == (200, "a")
