"""However a client spells a path, the gateway, `atoll explain` and the service take it for the same operation."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest

from atoll.gateway.ir import Gateway, Listener, Route
from atoll.gateway.matching import matched, normalized
from atoll.gateway.paths import Path
from atoll.gateway.translate import translate
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from atoll.service.routes import Routes
from tests.support.gateway import contract, known

LITERALS = [
    "bulk:import",
    "me@here",
    "a+b",
    "a=b",
    "(all)",
    "it's",
    "a,b",
    "a;b",
    "a!b",
    "$all",
    "a&b",
    "*",
    "-._~",
    "größe",
    "a b",
]


@pytest.mark.parametrize("literal", LITERALS)
def test_a_path_is_one_operation_for_gateway_explain_and_service(literal: str) -> None:
    paths: dict[str, dict[str, Any]] = {
        "/orders/{id}": {"get": {"operationId": "one", "security": []}},
        f"/orders/{literal}": {"get": {"operationId": "guarded", "security": [{"token": ["orders:admin"]}]}},
    }
    planned = translate(known(contract("orders", paths)), Listener("127.0.0.1", 8080))
    service = Routes([("GET", path, item["get"]["operationId"]) for path, item in paths.items()])

    for spelt in _spellings(f"/orders/{literal}"):
        path = normalized(spelt)
        assert path
        found = service.find(f"/orders/{literal}", path.encode())
        explained = matched(planned, "GET", path)
        assert found
        assert isinstance(explained, Route)
        assert (found[0]["GET"], explained.name, _rendered(planned, path)) == ("guarded", "orders.guarded", "orders.guarded")


def _spellings(path: str) -> set[str]:
    """With as little escaped as can be; with all of it; and the same in lower case."""
    little = quote(path, safe="/:@!$&'()*+,;=~-._")
    whole = "".join(one if one == "/" else "".join(f"%{octet:02X}" for octet in one.encode()) for one in path)
    return {little, whole, re.sub("%..", lambda found: found[0].lower(), whole)}


def _rendered(planned: Gateway, path: str) -> str:
    """The first entry of Envoy's table that takes it, whatever else it asks for."""
    (table,) = render(planned, Folders("/gateway"))["rds"]
    for entry in table["virtual_hosts"][0]["routes"][1:]:
        exact, pattern = entry["match"].get("path"), entry["match"].get("safe_regex")
        if path == exact or (pattern and re.fullmatch(pattern["regex"], path)):
            return str(entry["name"])
    return ""


def test_a_template_in_escaped_form_is_the_same_path() -> None:
    assert Path("/orders/open%3ax").shape == Path("/orders/open:x").shape
    assert Path("/orders/gr%C3%B6%C3%9Fe").shape == Path("/orders/größe").shape
    assert Path("/orders/open%3ax").matches("/orders/open:x")


def test_a_template_can_not_reach_a_path_by_escaping_what_needs_none() -> None:
    """`/%6Frders` is not under /orders for who asks whose path it is, so it must not match what is."""
    assert not Path("/%6Frders").matches("/orders")


def test_a_path_that_can_be_spelt_in_one_way_only_is_compared_as_it_is() -> None:
    assert Path("/orders/all-of_them.json").literal == "/orders/all-of_them.json"
    assert Path("/orders/bulk:import").literal is None
    assert Path("/orders/{id}").literal is None
