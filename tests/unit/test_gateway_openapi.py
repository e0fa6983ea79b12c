"""The merged OpenAPI document, and the page made from it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from openapi_spec_validator import validate

from atoll.gateway.ir import Listener
from atoll.gateway.known import ServiceEntry
from atoll.gateway.page.examples import curl, example
from atoll.gateway.page.sketch import sketch
from atoll.gateway.translate import translate
from atoll.system.contract import Contract
from tests.support.gateway import contract, known

ORDER = {
    "type": "object",
    "required": ["id", "lines"],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "lines": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Line"}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "<b>free</b> text"},
    },
}
LINE = {
    "type": "object",
    "properties": {"sku": {"type": "string", "example": "TEA-1"}, "quantity": {"type": "integer", "minimum": 1}},
}
BODY = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}}}
PLACED = {"201": {"description": "placed", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}}}}
ORDERS = contract(
    "orders",
    {
        "/orders": {
            "post": {
                "operationId": "place",
                "summary": "Place <an> order; see `lines`",
                "security": [{"token": ["orders:write"]}],
                "requestBody": BODY,
                "responses": PLACED,
            }
        },
        "/orders/{id}": {"get": {"operationId": "one", "security": [], "parameters": [{"$ref": "#/components/parameters/id"}]}},
        "/orders/{order_id}": {
            "put": {
                "operationId": "replace",
                "parameters": [{"name": "order_id", "in": "path", "required": True, "schema": {"type": "string"}}],
            }
        },
    },
    components={
        "schemas": {"Order": ORDER, "Line": LINE},
        "parameters": {"id": {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}},
    },
)
PAYMENTS = contract("payments", {"/payments": {"get": {"security": []}}}, components={"schemas": {"Order": {"type": "string"}}})
STOREFRONT = contract("storefront", {"/": {"get": {"operationId": "home", "security": []}}})


def _documents(*contracts: Contract) -> dict[str, str]:
    services = {
        one.service: ServiceEntry(kind="client" if one is STOREFRONT else "service", prefix="", digests=(one.digest,))
        for one in contracts
    }
    gateway = translate(known(*contracts, services=services), Listener("127.0.0.1", 8080))
    return {document.path: document.body for document in gateway.documents}


def _api(*contracts: Contract) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_documents(*contracts)["/openapi.json"])
    return found


def test_the_merged_document_is_valid() -> None:
    validate(_api(ORDERS, PAYMENTS, STOREFRONT))
    validate(_api())


def test_components_of_two_services_do_not_mix() -> None:
    api = _api(ORDERS, PAYMENTS)

    assert api["components"]["schemas"]["payments.Order"] == {"type": "string"}
    assert api["components"]["schemas"]["orders.Order"]["properties"]["lines"]["items"] == {
        "$ref": "#/components/schemas/orders.Line"
    }


def test_paths_that_differ_in_parameter_names_are_merged_under_one_name() -> None:
    item = _api(ORDERS)["paths"]["/orders/{id}"]

    assert sorted(item) == ["get", "put"]
    assert item["put"]["parameters"][0]["name"] == "id"


def test_what_an_operation_needs_and_who_has_it() -> None:
    place = _api(ORDERS)["paths"]["/orders"]["post"]

    assert place["security"] == [{"token": ["orders:write"]}]
    assert (place["operationId"], place["tags"]) == ("orders.place", ["orders"])


def test_pages_of_a_client_are_no_api() -> None:
    assert list(_api(PAYMENTS, STOREFRONT)["paths"]) == ["/payments"]


class _Tags(HTMLParser):
    """Fails for a tag that is closed without having been opened, or the other way round."""

    VOID = frozenset({"meta", "input", "wbr", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_shows_every_operation() -> None:
    page = _documents(ORDERS, PAYMENTS)["/docs"]
    tags = _Tags()
    tags.feed(page)

    assert tags.open == []
    for name in ("orders.place", "orders.one", "orders.replace", "payments.get_/payments"):
        assert f'id="{name}"' in page


def test_the_page_loads_nothing_from_elsewhere_and_escapes_what_contracts_say() -> None:
    page = _documents(ORDERS)["/docs"]

    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
    assert "<an>" not in page
    assert "<b>free</b>" not in page
    assert "Place &lt;an&gt; order; see <code>lines</code>" in page


def test_the_page_of_a_system_without_services() -> None:
    assert "0 operations of 0 services" in _documents()["/docs"]


API: dict[str, Any] = {"servers": [{"url": "http://localhost:8080"}], "components": {"schemas": {"Line": LINE}}}


def test_a_schema_is_shown_the_way_the_json_looks() -> None:
    assert sketch(ORDER, API) == (
        "{\n"
        '  "id": string uuid\n'
        '  "lines": [{\n'
        '    "sku"?: string\n'
        '    "quantity"?: integer (≥ 1)\n'
        "  }] (items ≥ 1)\n"
        '  "note"?: string | null  — <b>free</b> text\n'
        "}"
    )


def test_a_schema_that_holds_itself_ends_somewhere() -> None:
    tree: dict[str, Any] = {"properties": {"child": {"$ref": "#/components/schemas/Tree"}}}
    api: dict[str, Any] = {"components": {"schemas": {"Tree": tree}}}

    assert "Tree" in sketch(tree, api)
    assert example(tree, api)["child"]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "text"),
        ({"type": "integer", "minimum": 3}, 3),
        ({"enum": ["card-ok", "card-declined"]}, "card-ok"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, True),
        ({"type": ["null", "number"]}, 1.5),
        ({"$ref": "#/components/schemas/Line"}, {"sku": "TEA-1", "quantity": 1}),
    ],
)
def test_an_example_is_something_that_the_schema_accepts(schema: dict[str, Any], value: Any) -> None:
    assert example(schema, API) == value


def test_a_command_for_a_shell() -> None:
    operation: dict[str, Any] = {
        "security": [{"token": []}],
        "parameters": [{"name": "id", "in": "path", "schema": {"type": "integer"}}],
        "requestBody": {"content": {"application/json": {"schema": {"properties": {"name": {"const": "O'Neill"}}}}}},
    }

    assert curl("PUT", "/orders/{id}", operation, API) == (
        "curl -X PUT http://localhost:8080/orders/1 \\\n"
        '  -H "Authorization: Bearer $TOKEN" \\\n'
        "  -H 'Content-Type: application/json' \\\n"
        """  -d '{"name": "O'"'"'Neill"}'"""
    )
