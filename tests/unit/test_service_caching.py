"""`cache=`: what clients are told, what is kept here, and that one user's answer never reaches another."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Annotated, Any, cast

import httpx
import msgspec
import pytest

from atoll import Cookie, Header, NotFound, Principal, Query, Request, Response, Service
from atoll.errors import SystemMistake
from atoll.service import caching
from atoll.service.caching import Answers, Entry
from atoll.service.openapi import openapi_of
from atoll.system.contract import Contract
from tests.support.services import bearer, serving
from tests.support.waiting import until


class Filter(msgspec.Struct):
    colour: str = ""
    sizes: list[int] = []


class Sent(msgspec.Struct):
    accept_language: str = ""


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(caching, "time", clock)
    return clock


class Counter:
    """How often a handler ran."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


def waiting(client: httpx.AsyncClient) -> int:
    """How many wait for an answer that somebody else makes."""
    app: Any = cast(httpx.ASGITransport, client._transport).app
    return sum(len(coming._callbacks or ()) for coming in app.answers.coming.values())


def shelf(count: Counter, cache: str = "60s", **options: Any) -> Service:
    service = Service("shelf", database=None)

    @service.get("/shelf", cache=cache, **options)
    async def shelf() -> int:
        return count()

    return service


# what clients are told


@pytest.mark.parametrize(
    ("cache", "options", "control", "vary"),
    [
        ("60s", {"public": True}, "public, max-age=60", None),
        ("5min", {"public": True}, "public, max-age=300", None),
        ("2h", {"public": True}, "public, max-age=7200", None),
        ("1d", {}, "private, max-age=86400", "authorization, x-api-key"),
        ("0s", {"public": True}, "public, no-cache", None),
        ("0s", {"scope": "shelf:read"}, "private, no-cache", "authorization, x-api-key"),
    ],
)
async def test_an_answer_says_for_how_long_and_by_whom_it_may_be_kept(
    cache: str, options: dict[str, Any], control: str, vary: str | None
) -> None:
    async with serving(shelf(Counter(), cache, **options)) as client:
        answer = await client.get("/shelf", headers=bearer("alice", "shelf:read"))

    assert (answer.status_code, answer.headers["cache-control"], answer.headers.get("vary")) == (200, control, vary)
    assert answer.headers["etag"].startswith('"')


async def test_what_is_private_and_not_cached_is_stored_nowhere() -> None:
    service = Service("shelf", database=None)

    @service.get("/public", public=True)
    async def public() -> int:
        return 1

    @service.get("/private")
    async def private() -> int:
        return 1

    @service.get("/perhaps", public=True)
    async def perhaps(me: Principal | None) -> int:
        return 1

    @service.get("/own")
    async def own() -> Response:
        return Response("1", headers={"cache-control": "private, max-age=5"})

    @service.post("/private")
    async def change() -> int:
        return 1

    async with serving(service) as client:
        found = {
            path: (await client.get(path, headers=bearer())).headers.get("cache-control")
            for path in ("/public", "/private", "/perhaps", "/own")
        }
        changed = await client.post("/private", headers=bearer())

    assert found == {"/public": None, "/private": "no-store", "/perhaps": "no-store", "/own": "private, max-age=5"}
    assert "cache-control" not in changed.headers


async def test_who_has_the_answer_already_is_told_so_without_a_body() -> None:
    async with serving(shelf(Counter(), public=True)) as client:
        full = await client.get("/shelf")
        etag = full.headers["etag"]
        for tags in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            for method in ("GET", "HEAD"):
                answer = await client.request(method, "/shelf", headers={"if-none-match": tags})
                assert (answer.status_code, answer.content) == (304, b"")
                assert answer.headers["etag"] == (tags if tags.startswith("W/") else etag)  # as the client had it
                assert answer.headers["cache-control"] == full.headers["cache-control"]
                assert not {"content-length", "content-type"} & set(answer.headers)
        assert (await client.get("/shelf", headers={"if-none-match": '"other"'})).status_code == 200


async def test_an_etag_changes_with_the_body_and_with_nothing_else(clock: Clock) -> None:
    service, body = Service("shelf", database=None), ["a"]

    @service.get("/shelf", public=True, cache="0s")
    async def shelf() -> list[str]:
        return body

    async with serving(service) as client:
        first, again = [(await client.get("/shelf")).headers["etag"] for _ in range(2)]
        body.append("b")
        changed = await client.get("/shelf", headers={"if-none-match": first})

    assert first == again != changed.headers["etag"]
    assert changed.json() == ["a", "b"]


async def test_head_has_the_headers_of_its_get() -> None:
    async with serving(shelf(Counter(), public=True)) as client:
        head, get = await client.head("/shelf"), await client.get("/shelf")

    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "cache-control", "content-length", "content-type"):
        assert head.headers[name] == get.headers[name]


async def test_vary_names_what_the_handler_reads() -> None:
    service = Service("shelf", database=None)

    @service.get("/shelf", public=True, cache="60s")
    async def shelf(
        sent: Annotated[Sent, Header()], basket: Annotated[str, Cookie()] = "", tenant: Annotated[str, Header("X-Tenant")] = ""
    ) -> list[str]:
        return [sent.accept_language, basket, tenant]

    async with serving(service) as client:
        one = await client.get("/shelf", headers={"accept-language": "de", "cookie": "basket=1", "x-tenant": "a"})
        two = await client.get("/shelf", headers={"accept-language": "fr", "cookie": "basket=1", "x-tenant": "a"})
        three = await client.get("/shelf", headers={"accept-language": "de", "cookie": "basket=2", "x-tenant": "a"})
        four = await client.get("/shelf", headers={"accept-language": "de", "cookie": "basket=1; seen=1", "x-tenant": "a"})

    assert one.headers["vary"] == "accept-language, cookie, x-tenant"
    assert one.headers["cache-control"] == "private, max-age=60"
    assert [two.json(), three.json()] == [["fr", "1", "a"], ["de", "2", "a"]]
    assert (four.json(), "age" in four.headers) == (one.json(), True)


# what is kept here


async def test_an_answer_is_made_once_until_its_time_has_passed(clock: Clock) -> None:
    count = Counter()
    async with serving(shelf(count, public=True)) as client:
        first = await client.get("/shelf")
        clock.now += 59.5
        kept = await client.get("/shelf")
        clock.now += 0.5
        fresh = await client.get("/shelf")

    assert [one.json() for one in (first, kept, fresh)] == [1, 1, 2]
    assert [one.headers.get("age") for one in (first, kept, fresh)] == [None, "59", None]
    assert kept.headers["etag"] == first.headers["etag"]


async def test_an_answer_of_0s_is_made_every_time() -> None:
    async with serving(shelf(Counter(), "0s", public=True)) as client:
        assert [(await client.get("/shelf")).json() for _ in range(3)] == [1, 2, 3]


async def test_of_a_hundred_who_ask_at_once_one_makes_the_answer() -> None:
    service, count, opened = Service("shelf", database=None), Counter(), asyncio.Event()

    @service.get("/shelf", public=True, cache="60s")
    async def shelf() -> int:
        await opened.wait()
        return count()

    async with serving(service) as client:
        asking = [asyncio.create_task(client.get("/shelf")) for _ in range(100)]
        await until(lambda: waiting(client) == 99)
        opened.set()
        answers = await asyncio.gather(*asking)

    assert {answer.json() for answer in answers} == {1}
    assert count.calls == 1


async def test_who_waited_for_an_answer_that_failed_makes_its_own() -> None:
    service, count, opened = Service("shelf", database=None), Counter(), asyncio.Event()

    @service.get("/shelf", public=True, cache="60s")
    async def shelf() -> int:
        await opened.wait()
        if count() == 1:
            raise NotFound("not yet")
        return count.calls

    async with serving(service) as client:
        asking = [asyncio.create_task(client.get("/shelf")) for _ in range(5)]
        await until(lambda: waiting(client) == 4)
        opened.set()
        answers = await asyncio.gather(*asking)

    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 404]


async def test_who_gives_up_while_it_makes_an_answer_takes_nobody_along() -> None:
    service, count, opened = Service("shelf", database=None), Counter(), asyncio.Event()

    @service.get("/shelf", public=True, cache="60s")
    async def shelf() -> int:
        count()
        await opened.wait()
        return 1

    async with serving(service) as client:
        first = asyncio.create_task(client.get("/shelf"))
        await until(lambda: count.calls, what="the first to be in its handler")
        second = asyncio.create_task(client.get("/shelf"))
        await until(lambda: waiting(client) == 1)
        first.cancel()
        opened.set()
        assert (await second).json() == 1
    assert count.calls == 2


@pytest.mark.parametrize("query", [False, True])
async def test_an_error_is_never_kept(query: bool) -> None:
    service, count = Service("shelf", database=None), Counter()

    @service.get("/shelf", public=True, cache="60s")
    async def shelf(n: int = 0) -> int:
        count()
        raise NotFound("nothing")

    async with serving(service) as client:
        answers = [await client.get("/shelf", params={"n": "x"} if query else {}) for _ in range(2)]

    assert {answer.status_code for answer in answers} == {422 if query else 404}
    assert all(not {"etag", "cache-control", "age"} & set(answer.headers) for answer in answers)
    assert count.calls == (0 if query else 2)


async def test_the_same_question_is_what_the_handler_can_see() -> None:
    service, count = Service("shelf", database=None), Counter()

    @service.get("/shelf/{row}", public=True, cache="60s")
    async def row(row: str, q: str = "", limit: int = 10) -> int:
        return count()

    @service.get("/all", public=True, cache="60s")
    async def everything(filter: Annotated[Filter, Query()]) -> list[Any]:
        return [filter.colour, filter.sizes]

    async with serving(service) as client:

        async def ask(url: str) -> Any:
            return (await client.get(url)).json()

        assert await ask("/shelf/a?q=x&limit=5") == 1
        assert await ask("/shelf/a?limit=5&q=x") == 1
        assert await ask("/shelf/a?limit=5&q=x&utm_source=mail") == 1
        assert await ask("/shelf/b?limit=5&q=x") == 2
        assert await ask("/shelf/a?limit=6&q=x") == 3
        assert await ask("/shelf/a?limit=5") == 4
        assert await ask("/shelf/a?limit=5&q=") == 5
        assert await ask("/all?colour=red&sizes=1&sizes=2") == ["red", [1, 2]]
        assert await ask("/all?colour=red&sizes=2&sizes=1") == ["red", [2, 1]]
        assert await ask("/all?sizes=2&sizes=1&colour=blue") == ["blue", [2, 1]]


def entry(size_bytes: int, made_at: float = 0.0) -> Entry:
    return Entry(b"", [], b"", [], made_at, size_bytes)


def test_what_is_kept_has_an_end_and_the_longest_unused_goes_first() -> None:
    answers = Answers(entries=3, size_bytes=800)
    for name in "abc":
        answers.keep((name,), entry(100))
    assert answers.find(("a",), -1.0)
    answers.keep(("d",), entry(100))
    assert [name for name in "abcd" if answers.find((name,), -1.0)] == ["a", "c", "d"]
    answers.keep(("large",), entry(101))
    assert (answers.find(("large",), -1.0), len(answers), answers.size_bytes) == (None, 3, 300)
    answers = Answers(entries=100, size_bytes=800)
    for number in range(50):
        answers.keep((number,), entry(100))
        answers.keep((number,), entry(90))
    assert (len(answers), answers.size_bytes) == (8, 720)


# one user's answer never reaches another


@pytest.fixture
async def desk() -> AsyncIterator[httpx.AsyncClient]:
    """Handlers that tell who asked, as far as they can see; everything is cached for an hour."""
    service = Service("desk", database=None)

    class Greeting:
        def __init__(self, text: str) -> None:
            self.text = text

    @service.provides(lifetime="call")
    def greeting(me: Principal) -> Greeting:
        return Greeting(f"hello {me.id}")

    @service.get("/mine", cache="1h")
    async def mine(me: Principal, n: int = 0) -> list[Any]:
        return [me.id, sorted(me.scopes), n]

    @service.get("/perhaps", public=True, cache="1h")
    async def perhaps(me: Principal | None, n: int = 0) -> list[Any]:
        return [me.id, sorted(me.scopes), n] if me else [None, [], n]

    @service.get("/greeting", cache="1h")
    async def greet(greeting: Greeting, n: int = 0) -> list[Any]:
        return [greeting.text, n]

    @service.get("/scoped", scope="desk:read", cache="1h")
    async def scoped(n: int = 0) -> int:
        return n

    async with serving(service) as client:
        yield client


async def test_one_users_answer_never_reaches_another(desk: httpx.AsyncClient) -> None:
    """Many users at once, in an order that a seed decides, with tokens of one user that differ in what they allow."""
    rng = random.Random(20261127)
    users = [f"user-{number}" for number in range(12)]
    allowed: list[tuple[str, ...]] = [(), ("desk:read",), ("desk:read", "desk:write")]
    told: dict[str, Any] = {}  # by ETag
    known: dict[tuple[str, int], str] = {}
    kept = 0

    async def ask() -> None:
        nonlocal kept
        path, n = rng.choice(["/mine", "/perhaps", "/greeting", "/scoped"]), rng.randrange(3)
        caller = None if rng.random() < 0.2 else (rng.choice(users), rng.choice(allowed))
        headers = bearer(caller[0], *caller[1]) if caller else {}
        if rng.random() < 0.3 and (path, n) in known:
            headers["if-none-match"] = known[path, n]  # whoever's it is
        answer = await desk.get(path, params={"n": n}, headers=headers)
        status, body = expected(path, caller, n)
        kept += "age" in answer.headers
        if answer.status_code == 304:
            assert (status, told[headers["if-none-match"]]) == (200, body)
            return
        assert answer.status_code == status
        if status == 200:
            assert answer.json() == body
            known[path, n], told[answer.headers["etag"]] = answer.headers["etag"], body

    for _ in range(60):
        await asyncio.gather(*(ask() for _ in range(20)))
    assert kept > 300


def expected(path: str, caller: tuple[str, tuple[str, ...]] | None, n: int) -> tuple[int, Any]:
    """What this caller, and nobody else, is told."""
    if caller is None:
        return (200, [None, [], n]) if path == "/perhaps" else (401, None)
    user, allowed = caller
    match path:
        case "/greeting":
            return 200, [f"hello {user}", n]
        case "/scoped":
            return (200, n) if "desk:read" in allowed else (403, None)
        case _:
            return 200, [user, sorted(allowed), n]


async def test_what_everybody_with_the_scope_is_answered_is_made_once_and_given_to_nobody_else(desk: httpx.AsyncClient) -> None:
    alice, bob = await desk.get("/scoped", headers=bearer("alice", "desk:read")), bearer("bob", "desk:read")
    assert (alice.status_code, (await desk.get("/scoped", headers=bob)).headers.get("age")) == (200, "0")

    assert (await desk.get("/scoped", headers=bearer("bob"))).status_code == 403
    assert (await desk.get("/scoped")).status_code == 401
    assert (await desk.get("/scoped", headers={"authorization": "Bearer expired"})).status_code == 401
    etag = {"if-none-match": alice.headers["etag"]}
    assert (await desk.get("/scoped", headers={**bearer("bob"), **etag})).status_code == 403


async def test_a_new_token_of_the_same_user_is_a_new_question(desk: httpx.AsyncClient) -> None:
    """It may say something else than the last one, and handlers may ask what."""
    first = await desk.get("/mine", headers=bearer("alice", "desk:read"))
    lesser = await desk.get("/mine", headers=bearer("alice"))

    assert (first.json()[1], lesser.json()[1]) == (["desk:read"], [])


# declarations


@pytest.mark.parametrize("cache", ["", "60", "1.5s", "-1s", "60 s", "1w", "s", "9999999s", 60])
def test_a_time_that_is_none_is_refused_where_it_stands(cache: Any) -> None:
    with pytest.raises(SystemMistake, match=r"test_service_caching.py:\d+: cache="):
        shelf(Counter(), cache)


def test_what_cant_be_cached_is_refused_where_it_stands() -> None:
    class Visit: ...

    service = Service("shelf", database=None)

    @service.provides(lifetime="call")
    def visit(request: Request) -> Visit:
        return Visit()

    async def plain() -> int:
        return 1

    async def whole(request: Request) -> int:
        return 1

    async def response() -> Response:
        return Response()

    async def headers(all: Annotated[dict[str, str], Header()]) -> int:
        return 1

    async def visited(visit: Visit) -> int:
        return 1

    with pytest.raises(SystemMistake, match="only a GET"):
        service.post("/a", cache="60s")(plain)
    with pytest.raises(SystemMistake, match="only a GET that answers 200"):
        service.get("/b", cache="60s", status=202)(plain)
    with pytest.raises(SystemMistake, match="with the whole Request in hand"):
        service.get("/c", cache="60s")(whole)
    with pytest.raises(SystemMistake, match="a Response says so itself"):
        service.get("/d", cache="60s")(response)
    with pytest.raises(SystemMistake, match="'all' takes every header"):
        service.get("/e", cache="60s")(headers)
    service.get("/f", cache="60s")(visited)
    with pytest.raises(SystemMistake, match=r"visited can't be cached: with the whole Request"):
        _ = service.operations


def test_openapi_says_what_may_be_kept() -> None:
    public = openapi_of(shelf(Counter(), public=True))["paths"]["/shelf"]["get"]["responses"]
    private = openapi_of(shelf(Counter(), "0s"))["paths"]["/shelf"]["get"]["responses"]

    assert public["200"]["headers"]["Cache-Control"] == {"schema": {"type": "string", "const": "public, max-age=60"}}
    assert set(public["200"]["headers"]) == {"Cache-Control", "ETag"}
    assert private["200"]["headers"]["Vary"] == {"schema": {"type": "string", "const": "authorization, x-api-key"}}
    assert "304" in public


def test_the_gateway_reads_from_the_contract_what_may_be_kept() -> None:
    contract = Contract.parse({"format": 1, "service": "shelf", "openapi": openapi_of(shelf(Counter(), public=True))})

    assert {one.path: one.cache for one in contract.operations}["/shelf"] == "public, max-age=60"
