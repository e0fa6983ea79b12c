"""Input that is not a JSON body of a struct: queries, headers, cookies, forms, files, other types of bodies."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, TypedDict

import msgspec
import pydantic
from msgspec import Meta

from atoll import Body, Cookie, Form, Header, Query, Request, Service, UploadFile
from tests.support.services import serving


class Colour(enum.Enum):
    RED = "red"


class Filter(msgspec.Struct, forbid_unknown_fields=True):
    q: str = ""
    limit: Annotated[int, Meta(le=100)] = 20
    colours: list[Colour] = []


class Login(msgspec.Struct):
    username: str
    attempts: int = 1


class Trace(msgspec.Struct):
    x_request_id: str
    user_agent: str = ""


@dataclass
class Point:
    x: int
    y: int = 0


class Named(TypedDict):
    name: str


class Tag(pydantic.BaseModel):
    name: str


class Article(pydantic.BaseModel):
    title: str
    tags: list[Tag] = []


async def test_scalars_outside_of_the_path_are_query_parameters() -> None:
    service = Service("orders")

    @service.get("/find", public=True)
    async def find(
        q: str,
        limit: Annotated[int, Meta(ge=1, le=100)] = 20,
        since: date | None = None,
        colour: Colour | None = None,
        price: Decimal | None = None,
        sku: list[str] | None = None,
    ) -> list[Any]:
        return [q, limit, since, colour, price, sku]

    async with serving(service) as client:
        all_given = await client.get("/find?q=a+b&limit=3&since=2026-01-02&colour=red&price=1.50&sku=a&sku=b")
        defaults = await client.get("/find?q=&unknown=1")
        wrong = await client.get("/find?limit=0&since=soon&colour=green")

    assert all_given.json() == ["a b", 3, "2026-01-02", "red", "1.50", ["a", "b"]]
    assert defaults.json() == ["", 20, None, None, None, None]
    assert [one["field"] for one in wrong.json()["errors"]] == ["q", "limit", "since", "colour"]


async def test_a_struct_takes_the_whole_query_and_may_forbid_the_unknown() -> None:
    service = Service("orders")

    @service.get("/find", public=True)
    async def find(filter: Annotated[Filter, Query()]) -> Filter:
        return filter

    async with serving(service) as client:
        good = await client.get("/find?q=tea&colours=red&limit=5")
        wrong = await client.get("/find?limit=500&colours=red&colours=green&page=2")

    assert good.json() == {"q": "tea", "limit": 5, "colours": ["red"]}
    assert [one["field"] for one in wrong.json()["errors"]] == ["limit", "colours[1]", "page"]


async def test_headers_and_cookies_are_asked_for_by_marker() -> None:
    service = Service("orders")

    @service.get("/who", public=True)
    async def who(
        user_agent: Annotated[str, Header()],
        version: Annotated[int, Header("X-Version")],
        session: Annotated[str | None, Cookie()] = None,
        theme: Annotated[str, Cookie("ui-theme")] = "light",
        trace: Annotated[Trace | None, Header()] = None,
    ) -> list[Any]:
        return [user_agent, version, session, theme, trace]

    async with serving(service) as client:
        cookies = {"cookie": "session=s%201; ui-theme=dark"}
        good = await client.get("/who", headers={"user-agent": "tests", "x-version": "2", "x-request-id": "r", **cookies})
        wrong = await client.get("/who", headers={"x-version": "two", "x-request-id": "r"})

    assert good.json() == ["tests", 2, "s%201", "dark", {"x_request_id": "r", "user_agent": "tests"}]
    assert [one["field"] for one in wrong.json()["errors"]] == ["X-Version"]


async def test_forms_come_as_a_struct_or_field_by_field() -> None:
    service = Service("orders")

    @service.post("/login", public=True)
    async def login(form: Annotated[Login, Form()]) -> Login:
        return form

    @service.post("/fields", public=True)
    async def by_field(username: Annotated[str, Form()], age: Annotated[int | None, Form()] = None) -> list[Any]:
        return [username, age]

    async with serving(service) as client:
        urlencoded = await client.post("/login", data={"username": "alice", "attempts": "2"})
        multipart = await client.post("/login", files={"username": (None, "bob")})
        wrong = await client.post("/login", data={"attempts": "many"})
        fields = await client.post("/fields", data={"username": "alice"})
        as_json = await client.post("/login", json={"username": "alice"})
        broken = await client.post("/login", content=b"x", headers={"content-type": "multipart/form-data"})

    assert urlencoded.json() == {"username": "alice", "attempts": 2}
    assert multipart.json() == {"username": "bob", "attempts": 1}
    assert [one["field"] for one in wrong.json()["errors"]] == ["username", "attempts"]
    assert fields.json() == ["alice", None]
    assert as_json.status_code == 415
    assert (broken.status_code, broken.json()["code"]) == (400, "malformed")


async def test_files_are_uploaded_beside_form_fields() -> None:
    service = Service("orders")

    @service.post("/upload", public=True)
    async def upload(picture: UploadFile, more: list[UploadFile] | None, title: Annotated[str, Form()]) -> list[Any]:
        return [picture.filename, len(await picture.read()), len(more or []), title]

    async with serving(service) as client:
        files = [("picture", ("a.png", b"12345")), ("more", ("b", b"")), ("more", ("c", b""))]
        good = await client.post("/upload", files=files, data={"title": "sunset"})
        missing = await client.post("/upload", data={"picture": "text"})

    assert good.json() == ["a.png", 5, 2, "sunset"]
    assert [one["field"] for one in missing.json()["errors"]] == ["picture", "title"]


async def test_bodies_may_be_lists_data_classes_typed_dicts_scalars_and_raw_bytes() -> None:
    service = Service("orders")

    @service.post("/points", public=True)
    async def points(points: Annotated[list[Point], Meta(max_length=2)]) -> list[Point]:
        return points

    @service.post("/named", public=True)
    async def named(named: Named) -> str:
        return named["name"]

    @service.post("/text", public=True)
    async def text(text: Annotated[str, Body()]) -> str:
        return text

    @service.post("/raw", public=True)
    async def raw(raw: Annotated[bytes, Body()]) -> int:
        return len(raw)

    async with serving(service) as client:
        assert (await client.post("/points", json=[{"x": 1, "y": 2}])).json() == [{"x": 1, "y": 2}]
        wrong = await client.post("/points", json=[{"x": "1"}, {}, {"x": 3}])
        assert (await client.post("/named", json={"name": "a"})).json() == "a"
        assert (await client.post("/text", json="hello")).json() == "hello"
        assert (await client.post("/raw", content=b"\x00\x01", headers={"content-type": "image/png"})).json() == 2

    assert [one["field"] for one in wrong.json()["errors"]] == ["body", "[0].x", "[1].x"]


async def test_an_optional_body_may_be_missing() -> None:
    service = Service("orders")

    @service.post("/login", public=True)
    async def login(login: Login | None = None) -> str:
        return login.username if login else "nobody"

    async with serving(service) as client:
        assert (await client.post("/login")).json() == "nobody"
        assert (await client.post("/login", json={"username": "a"})).json() == "a"


async def test_pydantic_models_work_both_ways_and_name_every_fault() -> None:
    service = Service("orders")

    @service.post("/articles", public=True)
    async def write(article: Article) -> Article:
        return article

    @service.post("/several", public=True)
    async def write_several(articles: list[Article]) -> list[Article]:
        return articles

    async with serving(service) as client:
        good = await client.post("/articles", json={"title": "a", "tags": [{"name": "b"}]})
        wrong = await client.post("/articles", json={"tags": [{"name": "b"}, {"name": 3}]})
        broken = await client.post("/articles", content=b"{")
        several = await client.post("/several", json=[{"title": "a"}, {"title": 3}])

    assert several.json()["errors"][0]["field"] == "[1]"
    assert good.json() == {"title": "a", "tags": [{"name": "b"}]}
    assert [one["field"] for one in wrong.json()["errors"]] == ["title", "tags[1].name"]
    assert (broken.status_code, broken.json()["code"]) == (400, "malformed")


async def test_a_request_shows_what_came_also_beside_a_body() -> None:
    service = Service("orders")

    @service.post("/echo", public=True)
    async def echo(request: Request, login: Login) -> list[Any]:
        return [request.url.path, request.headers["x-own"], (await request.body()).decode(), login.username]

    async with serving(service) as client:
        answer = await client.post("/echo", content=b'{"username": "a"}', headers={"x-own": "1"})

    assert answer.json() == ["/echo", "1", '{"username": "a"}', "a"]
