"""What `@service.websocket` may declare, and what the contract says of it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette

import atoll.service.server
from atoll import Database, Principal, Request, Router, Service, WebSocket
from atoll.errors import SystemMistake
from atoll.service.describe import describe
from atoll.service.server import message_limit_bytes
from atoll.sqlite import Transaction
from atoll.system.contract import Contract


def test_the_contract_offers_a_get_that_is_upgraded() -> None:
    service, rooms = Service("chat", database=None), Router("/chat/rooms")
    service.include(rooms)

    @rooms.websocket("/{id}", scope="chat:join", rate_limit="1/s", tags=["rooms"])
    async def room(socket: WebSocket, id: UUID, me: Principal, since: int = 0) -> None:
        """Talks."""

    document = describe(service)
    OpenAPIV31SpecValidator(document["openapi"]).validate()
    (operation,) = Contract.parse(document).operations
    described = document["openapi"]["paths"]["/chat/rooms/{id}"]["get"]

    assert (operation.method, operation.websocket, operation.scope) == ("GET", True, "chat:join")
    assert described["responses"]["101"] == {"description": "Switching Protocols"}
    assert described["responses"].keys() >= {"401", "403", "422", "429"}
    assert [one["name"] for one in described["parameters"]] == ["id", "since"]


def test_an_asgi_application_may_upgrade_where_it_answers_get_and_a_wsgi_application_nowhere() -> None:
    def plain(environ: Any, start_response: Any) -> Any: ...

    def sockets(app: Any) -> set[tuple[str, str]]:
        contract = Contract.parse(describe(Service("legacy", database=None, app=app)))
        return {(one.method, one.path) for one in contract.operations if one.websocket}

    assert sockets(Starlette()) == {("GET", "/legacy"), ("GET", "/legacy/{rest:path}")}
    assert sockets(plain) == set()


async def no_socket(me: Principal) -> None: ...
def in_a_thread(socket: WebSocket) -> None: ...
async def with_transaction(socket: WebSocket, tx: Transaction) -> None: ...
async def with_request(socket: WebSocket, request: Request) -> None: ...
async def anybody(socket: WebSocket, me: Principal) -> None: ...


@pytest.mark.parametrize(
    ("handler", "options", "why", "hint"),
    [
        (no_socket, {}, "takes no WebSocket", "async def no_socket(socket: WebSocket, …)"),
        (in_a_thread, {}, "is awaited", "async def in_a_thread(…)"),
        (with_transaction, {}, "can't be open as long", "async with database.transaction() as tx"),
        (with_request, {}, "has no Request", "headers"),
        (anybody, {"public": True}, "may have no caller", "me: Principal | None"),
        (anybody, {"message_limit_bytes": 0}, "message_limit_bytes=0", "1 or more"),
    ],
)
def test_what_can_not_work_is_refused_with_file_and_line(handler: Any, options: Any, why: str, hint: str) -> None:
    with pytest.raises(SystemMistake) as refused:
        Service("chat").websocket("/chat", **options)(handler)

    assert why in str(refused.value)
    assert refused.value.where == f"{__file__}:{handler.__code__.co_firstlineno}"
    assert hint in refused.value.hint


def test_a_transaction_that_something_provided_asks_for_is_refused_too() -> None:
    service = Service("chat")

    class Rooms: ...

    @service.provides(lifetime="call")
    async def rooms(tx: Transaction) -> Rooms:
        return Rooms()

    @service.websocket("/chat")
    async def chat(socket: WebSocket, rooms: Rooms, database: Database) -> None: ...

    with pytest.raises(SystemMistake, match="chat: a transaction"):
        _ = service.operations


def test_a_request_has_no_socket() -> None:
    service = Service("chat")

    @service.get("/chat")
    async def chat(socket: WebSocket) -> None: ...

    with pytest.raises(SystemMistake, match="a request has no WebSocket"):
        _ = service.operations


def test_one_path_has_one_get() -> None:
    service = Service("chat", database=None)

    @service.get("/chat/{id}")
    async def read(id: str) -> None: ...

    with pytest.raises(SystemMistake, match="declared twice"):

        @service.websocket("/chat/{room}")
        async def chat(socket: WebSocket, room: str) -> None: ...


def test_the_server_takes_the_largest_message_that_anybody_declares_and_no_sockets_where_nobody_does() -> None:
    service = Service("chat", database=None)
    assert message_limit_bytes(service) is None

    @service.websocket("/chat/small", message_limit_bytes=10)
    async def small(socket: WebSocket) -> None: ...

    assert message_limit_bytes(service) == 10

    @service.websocket("/chat/usual")
    async def usual(socket: WebSocket) -> None: ...

    assert message_limit_bytes(service) == 1 << 20
    assert message_limit_bytes(Service("legacy", database=None, app=Starlette())) == 16 << 20


def test_without_the_package_a_socket_is_a_mistake_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("chat", database=None)

    @service.websocket("/chat")
    async def chat(socket: WebSocket) -> None: ...

    monkeypatch.setattr(atoll.service.server, "find_spec", lambda name: None)
    with pytest.raises(SystemMistake) as refused:
        message_limit_bytes(service)

    assert refused.value.where.startswith(__file__)
    assert refused.value.hint == "pip install 'atoll[websocket]'"
    assert message_limit_bytes(Service("legacy", database=None, app=Starlette())) is None, "the rest of it works without"
