"""The published contract: OpenAPI 3.1 and AsyncAPI 3.0, valid, unchanged unless somebody means it, readable again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from atoll import Service
from atoll.errors import SystemMistake
from atoll.service.describe import describe
from atoll.system.contract import Contract, Operation, Published, Setting
from tests.support.golden import check
from tests.unit.example_service import service


class Socket:
    pass


class Holder(msgspec.Struct):
    socket: Socket


TOOLS = Path(__file__).parents[1] / "validators"


def document() -> dict[str, Any]:
    """As it is read back from disk."""
    found: dict[str, Any] = json.loads(msgspec.json.encode(describe(service)))
    return found


def text_of(part: Any) -> str:
    return json.dumps(part, indent=2, sort_keys=True) + "\n"


def test_the_openapi_document_is_the_accepted_one() -> None:
    check("service/openapi.json", text_of(document()["openapi"]))


def test_the_asyncapi_document_is_the_accepted_one() -> None:
    check("service/asyncapi.json", text_of(document()["asyncapi"]))


def test_the_openapi_document_is_valid() -> None:
    OpenAPIV31SpecValidator(document()["openapi"]).validate()


def test_the_asyncapi_document_is_valid() -> None:
    """By the specification's own JSON schema, which comes from npm, locked by hash in tests/validators."""
    path = TOOLS / "node_modules/@asyncapi/specs/schemas/3.0.0.json"
    assert path.is_file(), f"the validators are not installed: npm ci --prefix {TOOLS.name} (make test does it)"
    validator = jsonschema.Draft7Validator(json.loads(path.read_text()))

    assert [error.message for error in validator.iter_errors(document()["asyncapi"])] == []
    assert list(validator.iter_errors(document()["asyncapi"] | {"channels": []})) != []


def test_every_message_of_an_operation_is_one_of_its_channel() -> None:
    """What AsyncAPI demands beyond its schema (3.0.0, Operation Object, `messages`)."""
    asyncapi = document()["asyncapi"]

    for operation in asyncapi["operations"].values():
        name = operation["channel"]["$ref"].removeprefix("#/channels/")
        for message in operation["messages"]:
            assert message["$ref"].removeprefix(f"#/channels/{name}/messages/") in asyncapi["channels"][name]["messages"]


def test_a_contract_says_what_may_be_sent_again_and_after_what_time() -> None:
    again = Service("orders")

    @again.put("/orders/{id}", repeatable=True, try_timeout_s=2.5)
    async def change(id: int) -> None: ...

    (operation,) = Contract.parse(msgspec.to_builtins(describe(again))).operations

    assert (operation.repeatable, operation.try_timeout_s) == (True, 2.5)


def test_a_contract_reads_back_what_was_declared() -> None:
    contract = Contract.parse(document())

    assert (contract.service, contract.database) == ("orders", "sqlite")
    assert contract.operations == (
        Operation("own_orders", "GET", "/orders", scope="orders:read"),
        Operation("place_order", "POST", "/orders", scope="orders:write", idempotent=True, whole_body=True),
        Operation("invoice", "GET", "/orders/invoices/{file:path}", public=True),
        Operation("own_order", "GET", "/orders/{id}", timeout_s=2.5),
        Operation("attach", "POST", "/orders/{id}/files"),
        Operation("follow", "GET", "/orders/{id}/stream", public=True, streaming=True),
        Operation("sign", "POST", "/orders/{id}/signature", public=True, whole_body=True),
    )
    assert [(one.name, one.key, one.partitions) for one in contract.publishes] == [
        ("order_placed", "order_id", 1),
        ("order_moved", "order_id", 4),
    ]
    assert isinstance(contract.publishes[0], Published)
    assert contract.publishes[0].schema["required"] == ["order_id", "lines", "total"]
    assert [(one.source, one.name, one.alone) for one in contract.consumes] == [
        ("inventory", "stock_rejected", False),
        ("payments", "payment_declined", True),
    ]
    assert contract.consumes[0].schema["required"] == ["order_id", "reason"]
    assert contract.settings == (
        Setting("vat_rate", "string", required=False),
        Setting("provider_url", "string"),
        Setting("provider_key", "string", secret=True),
        Setting("hosts", "array", required=False),
        Setting("retries", "integer", required=False),
    )


def test_the_same_declarations_have_the_same_digest() -> None:
    assert Contract.parse(document()).digest == Contract.parse(describe(service)).digest


@pytest.mark.parametrize("path", ["/orders", "/orders/{id}"])
def test_scopes_stand_in_security(path: str) -> None:
    security = document()["openapi"]["paths"][path]["get"]["security"]

    assert security == [{"token": ["orders:read"] if path == "/orders" else []}]


def test_a_type_that_json_can_not_carry_is_named_with_file_and_line() -> None:
    broken = Service("broken")

    @broken.post("/broken")
    async def keep(holder: Holder) -> None: ...

    with pytest.raises(SystemMistake, match="Socket'> is not supported") as caught:
        describe(broken)

    assert caught.value.where.startswith(f"{__file__}:")
