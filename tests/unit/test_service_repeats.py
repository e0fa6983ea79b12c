"""`Idempotency-Key`: what is a key, who accepts one, what the same request is, and what can be kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from starlette.responses import HTMLResponse, RedirectResponse, StreamingResponse

from atoll import Cookie, Database, Event, Form, Header, Principal, Request, Response, Service
from atoll.database.sqlite import Database as Sqlite
from atoll.errors import SystemMistake
from atoll.service.openapi import openapi_of
from atoll.service.repeats import ANSWER_LIMIT_BYTES
from atoll.sqlite import Transaction
from atoll.testing import under_test
from tests.support.services import bearer, serving

KEY = {"idempotency-key": "k1"}


class Note(msgspec.Struct):
    text: str = ""


class Noted(Event, name="noted", key="text"):
    text: str


class Counter:
    """How often a handler ran."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


@asynccontextmanager
async def running(service: Service, path: Path) -> AsyncIterator[httpx.AsyncClient]:
    database = Sqlite(f"sqlite://{path}/test.sqlite", service.encode)
    await database.open()
    await database.migrate(None)
    try:
        async with serving(service, database) as client:
            yield client
    finally:
        await database.close()


def notes(count: Counter, **options: Any) -> Service:
    service = Service("notes")

    @service.post("/notes", public=True, **options)
    async def note(note: Note, tx: Transaction) -> int:
        return count()

    return service


# keys


@pytest.mark.parametrize("key", ["k", "8e03978e-40d5-43e8-bc93-6894a57f9324", "!~", "x" * 255, '"quoted"'])
async def test_a_key_is_any_visible_ascii(key: str, tmp_path: Path) -> None:
    count = Counter()
    async with running(notes(count), tmp_path) as client:
        answers = [await client.post("/notes", json={}, headers={"idempotency-key": key}) for _ in range(2)]

    assert [answer.json() for answer in answers] == [1, 1]


async def test_a_key_in_quotes_is_the_same_key(tmp_path: Path) -> None:
    async with running(notes(Counter()), tmp_path) as client:
        for key in ("k1", '"k1"'):
            assert (await client.post("/notes", json={}, headers={"idempotency-key": key})).json() == 1


@pytest.mark.parametrize("key", [b"", b'""', b"two words", b"x" * 256, b"\xfcml", b"tab\there"])
async def test_anything_else_is_refused_and_nothing_is_done(key: bytes, tmp_path: Path) -> None:
    count = Counter()
    async with running(notes(count), tmp_path) as client:
        answer = await client.post("/notes", json={}, headers=[(b"idempotency-key", key)])

    assert (answer.status_code, answer.json()["code"], count.calls) == (400, "idempotency_key_malformed", 0)


async def test_two_keys_are_none(tmp_path: Path) -> None:
    async with running(notes(Counter()), tmp_path) as client:
        answer = await client.post("/notes", json={}, headers=[("idempotency-key", "a"), ("idempotency-key", "b")])

    assert answer.json()["code"] == "idempotency_key_malformed"


async def test_a_key_that_is_required_is_asked_for(tmp_path: Path) -> None:
    async with running(notes(Counter(), idempotency_key="required"), tmp_path) as client:
        without = await client.post("/notes", json={})
        with_one = await client.post("/notes", json={}, headers=KEY)

    assert (without.status_code, without.json()["code"]) == (400, "idempotency_key_missing")
    assert "hint" in without.json()
    assert with_one.status_code == 201


async def test_the_database_holds_no_key(tmp_path: Path) -> None:
    """The key of a public operation is a secret: whoever knows it may ask for the answer."""
    async with running(notes(Counter()), tmp_path) as client:
        await client.post("/notes", json={}, headers={"idempotency-key": "a-secret-key"})

    assert all(b"a-secret-key" not in file.read_bytes() for file in tmp_path.iterdir())


# what the same request is


async def test_an_operation_has_keys_of_its_own(tmp_path: Path) -> None:
    service = notes(count := Counter())

    @service.patch("/notes/{id}", public=True)
    async def change(id: str, note: Note, tx: Transaction) -> int:
        return count()

    async with running(service, tmp_path) as client:
        assert (await client.post("/notes", json={}, headers=KEY)).json() == 1
        assert (await client.patch("/notes/a", json={}, headers=KEY)).json() == 2
        assert (await client.patch("/notes/b", json={}, headers=KEY)).json()["code"] == "idempotency_key_reused"


async def test_what_a_handler_reads_of_headers_and_cookies_belongs_to_the_request(tmp_path: Path) -> None:
    service = Service("notes")

    @service.post("/notes", public=True)
    async def note(
        tx: Transaction,
        tenant: Annotated[str, Header("x-tenant")],
        basket: Annotated[str, Cookie()] = "",
        request_id: Annotated[str, Header("x-request-id")] = "",
    ) -> str:
        return f"{tenant} {basket}"

    async with running(service, tmp_path) as client:

        async def ask(tenant: str, cookie: str, request_id: str) -> Any:
            headers = {**KEY, "x-tenant": tenant, "cookie": cookie, "x-request-id": request_id}
            return (await client.post("/notes", headers=headers)).json()

        assert await ask("acme", "basket=1; seen=1", "r1") == "acme 1"
        assert await ask("acme", "basket=1; seen=2", "r2") == "acme 1"
        assert (await ask("evil", "basket=1", "r3"))["code"] == "idempotency_key_reused"
        assert (await ask("acme", "basket=2", "r4"))["code"] == "idempotency_key_reused"


async def test_a_body_that_the_handler_reads_itself_belongs_to_the_request(tmp_path: Path) -> None:
    service = Service("notes")

    @service.post("/notes", public=True)
    async def note(request: Request, tx: Transaction) -> str:
        return (await request.body()).decode()

    @service.post("/streamed", public=True)
    async def streamed(request: Request, tx: Transaction) -> str:
        return b"".join([piece async for piece in request.stream()]).decode()

    async with running(service, tmp_path) as client:
        for path in ("/notes", "/streamed"):
            for _ in range(2):
                assert (await client.post(path, content=b"one", headers=KEY)).json() == "one"
            assert (await client.post(path, content=b"two", headers=KEY)).json()["code"] == "idempotency_key_reused"
            assert (await client.post(path, headers={"idempotency-key": "k2"})).json() == ""


async def test_a_form_can_be_sent_again(tmp_path: Path) -> None:
    service, count = Service("notes"), Counter()

    @service.post("/notes", public=True)
    async def note(note: Annotated[Note, Form()], tx: Transaction) -> str:
        return f"{note.text} {count()}"

    async with running(service, tmp_path) as client:
        for _ in range(2):
            assert (await client.post("/notes", data={"text": "hello"}, headers=KEY)).json() == "hello 1"


async def test_a_caller_who_lost_the_right_is_not_answered_as_before(tmp_path: Path) -> None:
    service = Service("notes")

    @service.post("/notes", scope="notes:write")
    async def note(me: Principal, tx: Transaction) -> str:
        return me.id

    async with running(service, tmp_path) as client:
        before = await client.post("/notes", headers={**KEY, **bearer("alice", "notes:write")})
        after = await client.post("/notes", headers={**KEY, **bearer("alice")})

    assert (before.status_code, after.status_code) == (201, 403)


# what can be kept


async def test_an_answer_without_a_body_and_a_response_are_kept_as_they_were(tmp_path: Path) -> None:
    service, count = Service("notes"), Counter()

    @service.post("/nothing", public=True)
    async def nothing(tx: Transaction) -> None:
        count()

    @service.post("/page", public=True)
    async def page(tx: Transaction) -> Response:
        response = HTMLResponse(f"<p>{count()}</p>", 202)
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    @service.post("/away", public=True, status=200)
    async def away(tx: Transaction) -> Response:
        return RedirectResponse(f"/notes/{count()}", 303)

    async with running(service, tmp_path) as client:
        for path in ("/nothing", "/page", "/away"):
            first, second = [await client.post(path, headers=KEY) for _ in range(2)]
            assert second.headers.pop("idempotency-replayed") == "true"
            assert (second.status_code, second.content) == (first.status_code, first.content)
            assert sorted(second.headers.multi_items()) == sorted(first.headers.multi_items())

    assert count.calls == 3


async def test_what_cant_be_kept_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service, count = Service("notes"), Counter()

    @service.post("/notes", public=True)
    async def note(tx: Transaction, kind: str) -> Any:
        await tx.execute("INSERT INTO atoll_attempt VALUES ($1, '', $2)", kind, count())
        return StreamingResponse(iter([b"x"])) if kind == "stream" else "x" * ANSWER_LIMIT_BYTES

    @service.get("/notes", public=True)
    async def attempts(tx: Transaction) -> int:
        return int(await tx.scalar("SELECT count(*) FROM atoll_attempt"))

    async with running(service, tmp_path) as client:
        for kind in ("stream", "large"):
            answer = await client.post("/notes", params={"kind": kind}, headers={"idempotency-key": kind})
            assert (answer.status_code, answer.json()["code"]) == (500, "bug")
        assert (await client.get("/notes")).json() == 0
        assert (await client.post("/notes?kind=stream")).content == b"x"

    assert "is a StreamingResponse" in caplog.text
    assert "is larger than 1,048,576 bytes" in caplog.text


async def test_a_key_is_ignored_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """OpenAPI says where it is not."""
    service, count = Service("notes"), Counter()

    @service.post("/several", public=True)
    async def several(database: Database) -> int:
        return count()

    @service.post("/none", public=True)
    def none() -> int:
        return count()

    @service.put("/put", public=True)
    async def put(tx: Transaction) -> int:
        return count()

    @service.post("/told", public=True, idempotency_key="ignored")
    async def told(tx: Transaction) -> int:
        return count()

    @service.post("/stream", public=True)
    async def stream(tx: Transaction) -> StreamingResponse:
        return StreamingResponse(iter([str(count())]))

    async with running(service, tmp_path) as client:
        calls = [("POST", "/several"), ("POST", "/none"), ("PUT", "/put"), ("POST", "/told"), ("POST", "/stream")]
        answers = [(await client.request(*call, headers=KEY)).json() for call in calls for _ in range(2)]

    assert answers == list(range(1, 11))
    operations = [one for item in openapi_of(service)["paths"].values() for one in item.values()]
    assert not any("x-atoll-idempotent" in one or "parameters" in one for one in operations)


# declarations


def test_openapi_says_where_a_key_is_honoured() -> None:
    accepted = openapi_of(notes(Counter()))["paths"]["/notes"]["post"]
    required = openapi_of(notes(Counter(), idempotency_key="required"))["paths"]["/notes"]["post"]

    assert accepted["x-atoll-idempotent"] is True
    assert [(one["name"], one["in"], one["required"]) for one in accepted["parameters"]] == [
        ("Idempotency-Key", "header", False)
    ]
    assert required["parameters"][0]["required"] is True
    assert "idempotency_key_in_use" in accepted["responses"]["409"]["description"]
    assert "idempotency_key_reused" in accepted["responses"]["422"]["description"]
    assert "idempotency_key_missing" in required["responses"]["400"]["description"]
    assert "idempotency_key_missing" not in accepted["responses"]["400"]["description"]


def test_a_promise_that_cant_be_kept_is_refused_when_it_is_made() -> None:
    service = Service("notes")

    async def without(note: Note) -> None: ...
    async def with_one(tx: Transaction) -> None: ...
    async def stream(tx: Transaction) -> StreamingResponse:
        return StreamingResponse(iter(()))

    with pytest.raises(SystemMistake, match=r"test_service_repeats.py:\d+: without can't promise .* takes no transaction"):
        service.post("/a", idempotency_key="required")(without)
    with pytest.raises(SystemMistake, match="a PUT may be sent again as it is"):
        service.put("/b", idempotency_key="accepted")(with_one)
    with pytest.raises(SystemMistake, match="a stream can't be kept"):
        service.post("/c", idempotency_key="required")(stream)
    with pytest.raises(SystemMistake, match="'always'"):
        service.post("/d", idempotency_key="always")(with_one)  # type: ignore[arg-type]


async def test_a_service_under_test_honours_keys(tmp_path: Path) -> None:
    service = Service("notes", publishes=[Noted])

    @service.post("/notes", scope="notes:write")
    async def note(note: Note, tx: Transaction) -> None:
        await tx.publish(Noted(note.text))

    async with under_test(service, folder=tmp_path) as notes:
        alice, again = (notes.as_user("alice", scopes=["notes:write"]) for _ in range(2))
        for client in (alice, again):
            assert (await client.post("/notes", json={"text": "hi"}, headers=KEY)).status_code == 204
        assert notes.published == [Noted("hi")]
