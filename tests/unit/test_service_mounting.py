"""Any ASGI or WSGI application is a service as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from atoll import Service
from atoll.errors import SystemMistake
from atoll.service.describe import describe
from atoll.system.contract import Contract
from tests.support.services import bearer, serving


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"asgi {request.path_params['name']}")


ASGI = Starlette(routes=[Route("/legacy/{name}", hello)])


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("201 Created", [("Content-Type", "text/plain"), ("X-Own", "1")])
    return [environ["REQUEST_METHOD"].encode(), b" ", environ["PATH_INFO"].encode(), b" ", environ["wsgi.input"].read()]


@pytest.mark.parametrize("app", [ASGI, ASGI.__call__])
async def test_an_asgi_application_answers_what_no_operation_does(app: Any) -> None:
    service = Service("legacy", app=app, public=True)

    @service.get("/legacy/new", public=True)
    async def new() -> str:
        return "new"

    async with serving(service) as client:
        assert (await client.get("/legacy/old")).text == "asgi old"
        assert (await client.get("/legacy/new")).json() == "new"
        assert (await client.put("/legacy/new")).status_code == 405, "the application's own answer"
        assert (await client.get("/elsewhere")).status_code == 404


async def test_a_wsgi_application_is_answered_from_threads() -> None:
    async with serving(Service("legacy", app=wsgi, public=True)) as client:
        answer = await client.post("/legacy/form", content=b"body")

    assert (answer.status_code, answer.headers["x-own"], answer.text) == (201, "1", "POST /legacy/form body")


async def test_an_application_is_behind_the_token_check_unless_it_checks_itself() -> None:
    async with serving(Service("legacy", app=ASGI)) as client:
        without = await client.get("/legacy/old")
        with_token = await client.get("/legacy/old", headers=bearer())

    assert (without.status_code, with_token.text) == (401, "asgi old")


def test_an_application_offers_everything_under_the_services_name_that_no_operation_does() -> None:
    service = Service("legacy", database=None, app=wsgi, public=True)

    @service.get("/legacy/orders/{id}", scope="orders:read")
    async def order(id: int) -> None: ...

    document = describe(service)
    contract = Contract.parse(document)
    OpenAPIV31SpecValidator(document["openapi"]).validate()
    orders = [one for one in contract.operations if one.path == "/legacy/orders/{id}"]

    assert {one.path for one in contract.operations} == {"/legacy", "/legacy/{rest:path}", "/legacy/orders/{id}"}
    assert [(one.method, one.scope) for one in orders if not one.public] == [("GET", "orders:read")]
    assert {"POST", "PUT", "DELETE"} < {one.method for one in orders if one.public}


@pytest.mark.parametrize("app", [3, lambda: None, lambda a, b, c, d: None])
async def test_what_is_no_application_is_refused(app: Any) -> None:
    with pytest.raises(SystemMistake, match="is no application"):
        async with serving(Service("legacy", app=app)):
            pass
