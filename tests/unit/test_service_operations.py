"""What a signature says, and what can't work is said at once with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest

import atoll.postgresql
import atoll.sqlite
from atoll import (
    Body,
    Database,
    Delivery,
    Event,
    Form,
    Header,
    Principal,
    Query,
    Request,
    Router,
    Service,
    Settings,
    Transaction,
    WebSocket,
)
from atoll.errors import SystemMistake
from atoll.service.arguments import From
from atoll.service.operations import Operation


class NewOrder(msgspec.Struct):
    sku: str
    quantity: int


class Filter(msgspec.Struct):
    q: str = ""


class Placed(Event, name="placed", key="id"):
    id: UUID


class Clock:
    pass


class OwnSettings(Settings):
    vat_rate: str = "0.1"


def mistake(declare: Any) -> SystemMistake:
    with pytest.raises(SystemMistake) as caught:
        declare()
    return caught.value


def test_decorators_give_the_function_back_unchanged() -> None:
    service = Service("orders")

    async def place(order: NewOrder) -> None: ...

    async def cancel(event: NewOrder) -> None: ...

    def clock() -> Clock:
        return Clock()

    assert service.post("/orders")(place) is place
    assert service.on("inventory.stock_rejected")(cancel) is cancel
    assert service.provides()(clock) is clock
    assert service.on_start(clock) is clock


def test_the_type_and_the_name_of_an_argument_decide_where_it_comes_from() -> None:
    service = Service("orders")

    @service.provides()
    def clock() -> Clock:
        return Clock()

    @service.post("/orders/{id}")
    async def everything(
        id: UUID,
        q: str,
        order: NewOrder,
        agent: Annotated[str, Header("user-agent")],
        x_note: Annotated[str, Header()],
        me: Principal,
        request: Request,
        tx: Transaction,
        database: Database,
        settings: OwnSettings,
        now: Clock,
    ) -> NewOrder:
        return NewOrder("a", 1)

    arguments = {one.name: one for one in service.operations[0].arguments}

    assert {name: one.source for name, one in arguments.items()} == {
        "id": From.PATH,
        "q": From.QUERY,
        "order": From.BODY,
        "agent": From.HEADER,
        "x_note": From.HEADER,
        "me": From.PRINCIPAL,
        "request": From.REQUEST,
        "tx": From.TRANSACTION,
        "database": From.DATABASE,
        "settings": From.PROVIDED,
        "now": From.PROVIDED,
    }
    assert arguments["agent"].wire == "user-agent"
    assert arguments["x_note"].wire == "x-note"


def test_a_struct_that_is_provided_is_no_body_wherever_the_provider_stands() -> None:
    service = Service("orders")

    @service.post("/orders")
    async def place(order: NewOrder, filter: Annotated[Filter, Query()]) -> None: ...

    @service.provides()
    def new_order() -> NewOrder:
        return NewOrder("a", 1)

    assert [one.source for one in service.operations[0].arguments] == [From.PROVIDED, From.QUERY]


def test_the_status_follows_from_the_verb_and_the_return_type() -> None:
    service = Service("orders")

    @service.post("/a")
    async def a() -> NewOrder:
        return NewOrder("a", 1)

    @service.post("/b")
    async def b() -> None: ...

    @service.get("/c")
    async def c() -> NewOrder:
        return NewOrder("a", 1)

    @service.post("/d", status=202)
    async def d() -> NewOrder:
        return NewOrder("a", 1)

    assert [one.status for one in service.operations] == [201, 204, 200, 202]


def test_a_router_declares_for_the_service_that_includes_it() -> None:
    service, router = Service("orders"), Router("/orders")
    service.include(router)

    @router.get("/{id}")
    async def one(id: UUID) -> None: ...

    @router.get("/")
    async def all_of_them() -> None: ...

    assert [one.path for one in service.operations] == ["/orders/{id}", "/orders"]


def test_a_path_parameter_that_the_signature_lacks_is_named_with_file_and_line() -> None:
    @(service := Service("orders")).get("/orders")
    async def fine() -> None: ...

    def declare() -> None:
        @service.get("/orders/{id}")
        async def order() -> None: ...

    found = mistake(declare)

    assert "{id} stands in /orders/{id} but not in the signature" in found.detail
    assert found.where.startswith(f"{__file__}:")


def test_an_annotation_that_nothing_can_fill_is_refused() -> None:
    def builtin() -> None:
        @Service("orders").get("/orders")
        async def order(what: object) -> None: ...

    def missing() -> None:
        @Service("orders").get("/orders")
        async def order(what) -> None: ...  # type: ignore[no-untyped-def]

    def unknown() -> None:
        @Service("orders").get("/orders")
        async def order(what: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    def star() -> None:
        @Service("orders").get("/orders")
        async def order(*what: str) -> None: ...

    assert "can come from nowhere" in mistake(builtin).detail
    assert "has no annotation" in mistake(missing).detail
    assert "'Nowhere' is not known" in mistake(unknown).detail
    assert "can't be filled in" in mistake(star).detail


def test_a_type_that_nobody_provides_is_refused_once_everything_is_declared() -> None:
    service = Service("orders")

    @service.get("/orders")
    async def orders(now: Clock) -> None: ...

    assert "orders: nobody provides now: Clock" in mistake(lambda: service.operations).detail


def test_one_verb_on_one_path_is_declared_once_whatever_its_parameters_are_called() -> None:
    service, router = Service("orders"), Router()

    @service.get("/orders/{id}")
    async def one(id: UUID) -> None: ...

    @router.get("/orders/{order_id}")
    async def same(order_id: UUID) -> None: ...

    service.include(router)

    assert "GET /orders/{order_id} is declared twice" in mistake(lambda: service.operations).detail


def test_a_get_with_a_body_is_refused() -> None:
    def marked() -> None:
        @Service("orders").get("/orders")
        async def orders(filter: Annotated[Filter, Body()]) -> None: ...

    def unmarked() -> None:
        service = Service("orders")

        @service.get("/orders")
        async def orders(filter: Filter) -> None: ...

        _ = service.operations

    assert "a GET has no body" in mistake(marked).detail
    assert "Query()" in mistake(unmarked).hint


def test_two_bodies_are_refused() -> None:
    def two() -> None:
        @Service("orders").post("/orders")
        async def place(a: NewOrder, b: NewOrder) -> None: ...

    def form_and_body() -> None:
        @Service("orders").post("/orders")
        async def place(a: NewOrder, b: Annotated[Filter, Form()]) -> None: ...

    assert "one body" in mistake(two).detail
    assert "one body" in mistake(form_and_body).detail


def test_a_transaction_of_another_kind_than_the_database_is_refused() -> None:
    service = Service("orders", database="sqlite")

    @service.get("/orders")
    async def orders(tx: atoll.postgresql.Transaction) -> None: ...

    found = mistake(lambda: service.operations)

    assert "tx is a postgresql Transaction, but the database of orders is sqlite" in found.detail
    assert found.hint == "from atoll.sqlite import Transaction"


def test_a_service_without_a_database_has_no_transactions_events_or_event_handlers() -> None:
    def transaction() -> Any:
        service = Service("storefront", database=None)

        @service.get("/")
        async def home(tx: Transaction) -> None: ...

        return service.operations

    def subscription() -> Any:
        service = Service("storefront", database=None)

        @service.on("orders.placed")
        async def on_placed(event: Placed) -> None: ...

        return service.subscriptions

    assert "has no database" in mistake(transaction).detail
    assert "has no database" in mistake(subscription).detail
    assert "has no database" in mistake(lambda: Service("storefront", database=None, publishes=[Placed])).detail


def test_a_plain_function_can_not_ask_for_what_must_be_awaited() -> None:
    def declare() -> None:
        @Service("orders").get("/orders")
        def orders(tx: atoll.sqlite.Transaction) -> None: ...

    assert "async def orders" in mistake(declare).hint


def test_a_public_operation_has_no_scope_and_perhaps_no_caller() -> None:
    def scope() -> None:
        @Service("orders").get("/orders", public=True, scope="orders:read")
        async def orders() -> None: ...

    def caller() -> None:
        @Service("orders").get("/orders", public=True)
        async def orders(me: Principal) -> None: ...

    assert "can't be public and need a scope" in mistake(scope).detail
    assert mistake(caller).hint == "me: Principal | None"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"timeout_s": 0}, "timeout_s is 0, not a number of seconds from"),
        ({"timeout_s": -1}, "timeout_s is -1"),
        ({"timeout_s": 1e12}, "timeout_s is 1000000000000.0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"body_limit_bytes": -5}, "body_limit_bytes is -5, not a whole number of bytes from 1"),
        ({"body_limit_bytes": 1 << 32}, "body_limit_bytes is 4294967296"),
    ],
)
def test_a_number_that_the_gateway_could_not_use_is_refused_where_it_is_written(wrong: Any, said: str) -> None:
    def declare() -> None:
        @Service("orders").get("/orders", **wrong)
        async def orders() -> None: ...

    found = mistake(declare)
    assert said in found.detail
    assert Path(__file__).name in (found.where or "")


@pytest.mark.parametrize("try_timeout_s", [0, -1, 3, 4])
def test_a_try_must_leave_time_for_another(try_timeout_s: float) -> None:
    def declare() -> None:
        @Service("orders").get("/orders", timeout_s=3, try_timeout_s=try_timeout_s)
        async def orders() -> None: ...

    assert "leaves no time for a second try" in mistake(declare).detail


def test_what_only_an_event_has_is_refused_in_an_operation_and_the_other_way_round() -> None:
    def delivery() -> None:
        @Service("orders").post("/orders")
        async def place(delivery: Delivery) -> None: ...

    def principal() -> None:
        @Service("orders").on("inventory.stock_rejected")
        async def cancel(event: NewOrder, me: Principal) -> None: ...

    assert "only an event handler has a Delivery" in mistake(delivery).detail
    assert "an event has no principal" in mistake(principal).detail


def test_one_type_of_event_has_one_handler_whose_first_argument_is_the_event() -> None:
    service = Service("orders")

    @service.on("inventory.stock_rejected")
    async def one(event: NewOrder) -> None: ...

    @service.on("inventory.stock_rejected")
    async def two(event: NewOrder) -> None: ...

    def no_event() -> None:
        @service.on("inventory.stock_reserved")
        async def three(tx: Transaction) -> None: ...

    def no_type() -> None:
        @service.on("stock_reserved")
        async def four(event: NewOrder) -> None: ...

    assert "has two handlers" in mistake(lambda: service.subscriptions).detail
    assert "can't hold an event" in mistake(no_event).detail
    assert "is no event type" in mistake(no_type).detail


@pytest.mark.parametrize("path", ["orders", "/orders/", "/orders/{id", "/orders/{id}/{id}", "/a/{rest:path}/b", "/or ders"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    def declare() -> None:
        @Service("orders").get(path)
        async def order(id: str, rest: str) -> None: ...

    mistake(declare)


@pytest.mark.parametrize("name", ["Orders", "my-orders", "1st", "", "a" * 41])
def test_a_service_name_is_a_package_name(name: str) -> None:
    assert "is no name for a service" in mistake(lambda: Service(name)).detail


def test_a_database_of_a_kind_that_there_is_not_is_refused() -> None:
    refused = mistake(lambda: Service("orders", database="oracle"))  # type: ignore[arg-type]
    assert (refused.detail, refused.hint) == (
        "orders: database='oracle' is no kind of database",
        '"sqlite", "postgresql", "mongodb" or None',
    )


def test_a_rate_limit_is_read_and_one_that_is_none_names_its_line() -> None:
    async def place() -> None: ...

    assert str(Operation.derive("POST", "/orders", place, {"rate_limit": "10/min"}).rate_limit) == "10/min"
    for wrong in ("10", "10/d", "0/s", "1.5/s", "10001/s", "often", "-1/s", " 1/s"):
        with pytest.raises(SystemMistake, match=r'a rate like "10/s"') as caught:
            Operation.derive("POST", "/orders", place, {"rate_limit": wrong})
        assert caught.value.where.startswith(__file__)


@pytest.mark.parametrize(
    ("options", "said", "hint"),
    [
        ({"scop": "orders:write"}, "place: there is no option scop=", "did you mean scope=?"),
        ({"ratelimit": "10/s"}, "place: there is no option ratelimit=", "did you mean rate_limit=?"),
        ({"secret": True}, "place: there is no option secret=", "options: body_limit_bytes, cache, id"),
        ({"message_limit_bytes": 5}, "place: there is no option message_limit_bytes=", ""),
        ({"public": "no"}, "place: public='no'", "Expected `bool`"),
        ({"public": None}, "place: public=None", "Expected `bool`"),
        ({"scope": ""}, "place: scope=''", 'one scope, like "orders:write"'),
        ({"scope": "orders:read orders:write"}, "place: scope='orders:read orders:write'", "one scope"),
        ({"scope": ["orders:write"]}, "place: scope=['orders:write']", "one scope"),
        ({"scope": None}, "place: scope=None", "one scope"),
        ({"timeout_s": "5"}, "place: timeout_s='5'", "Expected `float`"),
        ({"body_limit_bytes": "10MB"}, "place: body_limit_bytes='10MB'", "Expected `int`"),
        ({"streaming": 1}, "place: streaming=1", "Expected `bool`"),
        ({"repeatable": "yes"}, "place: repeatable='yes'", "Expected `bool`"),
        ({"status": "201"}, "place: status='201'", "Expected `int`"),
        ({"tags": "orders"}, "place: tags='orders'", "Expected `array`"),
        ({"raises": ValueError}, "place: raises=<class 'ValueError'>", "a list of classes"),
        ({"raises": [ValueError]}, "place: raises=[<class 'ValueError'>]", "a list of classes"),
        ({"id": ""}, "place: id=''", "a name"),
        ({"try_timeout_s": 2.0}, "place: try_timeout_s= means nothing here", "repeatable=True"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_where_it_stands(options: Any, said: str, hint: str) -> None:
    def declare() -> None:
        @Service("orders").post("/orders", **options)
        async def place() -> None: ...

    refused = mistake(declare)
    assert refused.where.startswith(f"{__file__}:")
    assert refused.detail.startswith(said)
    assert refused.hint.startswith(hint)


def test_a_websocket_has_options_of_its_own() -> None:
    def declare(**options: Any) -> SystemMistake:
        def socket() -> None:
            @Service("orders").websocket("/orders", **options)
            async def live(socket: WebSocket) -> None: ...

        return mistake(socket)

    assert declare(timeout_s=5).detail == "live: there is no option timeout_s="
    assert declare(message_limit_bytes="1k").detail == "live: message_limit_bytes='1k'"


def test_a_key_is_not_accepted_by_itself_where_a_database_may_be_changed_beside_the_transaction() -> None:
    async def both(tx: Transaction, database: atoll.sqlite.Database) -> None: ...
    async def one(tx: Transaction) -> None: ...

    assert Operation.derive("POST", "/orders", one, {}).idempotency_key == "accepted"
    assert Operation.derive("POST", "/orders", both, {}).idempotency_key == "ignored"
    assert Operation.derive("POST", "/orders", both, {"idempotency_key": "accepted"}).idempotency_key == "accepted"
