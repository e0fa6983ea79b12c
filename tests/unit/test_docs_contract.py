"""docs/reference/contract.md: its example is a contract, and its tables name what is read and what travels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import openapi_spec_validator

from atoll.delivery import envelope
from atoll.system import contract
from atoll.system.contract import Contract
from atoll.system.manifest import parse
from tests.support.pages import DOCS, blocks, names, rows

PAGE = DOCS / "reference" / "contract.md"


def example() -> dict[str, Any]:
    (block,) = blocks(PAGE, "json")
    return dict(json.loads(block.text))


def test_the_contract_that_is_shown_says_what_the_page_says_of_it() -> None:
    parsed = Contract.parse(example(), where="contracts/ratings.json")
    rating, rate = parsed.operations
    assert (parsed.service, parsed.database) == ("ratings", "postgresql")
    assert (rating.id, rating.public, rating.timeout_s) == ("rating", True, None)
    assert (rate.method, rate.path, rate.scope) == ("PUT", "/ratings/{sku}", "ratings:write")
    assert (rate.timeout_s, rate.body_limit_bytes) == (2, 4096)
    assert [(one.name, one.key, one.partitions) for one in parsed.publishes] == [("rating_given", "sku", 1)]
    assert parsed.publishes[0].schema["required"] == ["sku", "stars"]
    assert parsed.sources == {"orders": ("order_confirmed",)}
    assert [(one.name, one.type, one.required) for one in parsed.settings] == [("smallest_count", "integer", False)]


def test_its_openapi_is_valid_and_its_manifest_entry_can_be_read() -> None:
    openapi_spec_validator.validate(example()["openapi"])
    (block,) = blocks(PAGE, "toml")
    (spec,) = parse(f'format = 1\nname = "shop"\n{block.text}', Path("/shop/atoll.toml")).services
    assert spec.contract == Path("/shop/contracts/ratings.json")


def test_the_tables_name_every_key_and_extension_that_is_read() -> None:
    code = Path(contract.__file__).read_text("utf-8")
    assert {names(row[0])[0] for row in rows(PAGE, "## The envelope")} == set(example())
    shown = {name for heading in ("## OpenAPI", "## AsyncAPI") for row in rows(PAGE, heading) for name in names(row[0])}
    assert {name for name in shown if name.startswith("x-atoll-")} == set(re.findall(r'"(x-atoll-[a-z-]+)"', code))
    methods = PAGE.read_text("utf-8").partition("Methods are ")[2].partition(".")[0]
    assert tuple(names(methods)) == contract._METHODS
    defaults = {one.name: one.default for one in msgspec.structs.fields(contract.Setting)}
    assert (defaults["type"], defaults["required"], defaults["secret"]) == ("string", True, False)


def test_the_headers_of_an_event_are_those_of_the_page() -> None:
    row = envelope.encode("ratings", "rating_given", "mug", b"{}", traceparent="00-1-2-01")
    travelling = dict(line.split(": ", 1) for line in row.headers.decode().splitlines())
    shown = {names(cells[0])[0]: names(cells[1]) for cells in rows(PAGE, "## Written by hand")}
    assert set(shown) == set(travelling)
    for name in ("ce-specversion", "ce-type", "ce-source", "content-type"):
        assert shown[name] == [travelling[name]]
    assert travelling["Nats-Msg-Id"] == travelling["ce-id"]
