"""docs/reference holds what the code says: neither more nor less."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from atoll.auth.configuration import variable_for
from atoll.gateway import controller
from atoll.service.environment import Environment
from atoll.system import manifest
from tests.support.pages import DOCS, blocks, names, rows
from tests.support.system import ROOT

REFERENCE = DOCS / "reference"
SOURCES = sorted((ROOT / "src" / "atoll").rglob("*.py"))


# the manifest


def keys(table: manifest._Table, at: str = "") -> Iterator[tuple[str, manifest.Check]]:
    """Every key below a table, with what it may be. A key that anybody may choose is NAME."""
    shapes = {**table.keys, **({"NAME": table.named} if table.named else {})}
    for name, shape in shapes.items():
        if isinstance(shape, manifest._Table):
            yield from keys(shape, f"{at}{name}.")
        else:
            yield f"{at}{name}", shape


def may_be(check: manifest.Check) -> str:
    """In the words of the message about a value that is wrong."""
    words = check(None).removeprefix("must be ").removesuffix(", not None")
    return "1" if words == "a whole number from 1 to 1" else words


def documented(heading: str) -> dict[str, str]:
    return {names(row[0])[0]: row[1] for row in rows(REFERENCE / "manifest.md", heading)}


def test_the_manifests_page_has_every_key_and_what_it_may_be() -> None:
    parts = {
        "## `[gateway]`": manifest._GATEWAY,
        "## `[auth]`": manifest._AUTH,
        "## `[services.NAME]`": manifest._SERVICE,
        "## Top": manifest._Table({name: manifest._ROOT.keys[name] for name in ("format", "name")}),
    }
    for heading, table in parts.items():
        assert documented(heading) == {name: may_be(check) for name, check in keys(table)}, heading
    assert set(documented("## `[environments.NAME]`")) == set(manifest._OVERLAY.keys)
    assert set(manifest._ROOT.keys) == {"format", "name", "gateway", "auth", "services", "environments"}


def test_the_manifests_page_shows_the_defaults() -> None:
    shown = {names(row[0])[0]: row[2].strip("`") for row in rows(REFERENCE / "manifest.md") if len(row) == 4}
    defaults = {
        "port": manifest.GatewaySpec().port,
        "access_token_lifetime_s": manifest.AuthSpec().access_token_lifetime_s,
        "replicas": manifest.ServiceSpec.__dataclass_fields__["replicas"].default,
    }
    assert {name: shown[name] for name in defaults} == {name: str(value) for name, value in defaults.items()}


def test_the_manifest_that_is_shown_can_be_read_and_reserved_names_are_listed() -> None:
    page = REFERENCE / "manifest.md"
    (shown,) = blocks(page, "toml")
    assert [spec.name for spec in manifest.parse(shown.text, Path("atoll.toml")).services] == ["catalog", "orders", "legacy"]
    (reserved,) = [line for line in page.read_text("utf-8").splitlines() if line.endswith("are taken.")]
    assert set(names(reserved)) - {"-"} == manifest.RESERVED


# environment variables


class Asked(dict[str, str]):
    """Variables that remember which of them were asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def variables(heading: str = "") -> set[str]:
    return {name for row in rows(REFERENCE / "environment.md", heading) for name in names(row[0])}


def test_the_page_has_the_variables_of_a_service() -> None:
    asked = Asked({"ATOLL_SERVICE": "orders", "ATOLL_LISTEN": "127.0.0.1:2100"})
    Environment.read(asked)
    assert variables("## A service") == asked.names
    assert required("## A service") == {"ATOLL_SERVICE", "ATOLL_LISTEN"}


def test_the_page_has_the_variables_of_the_gateways_controller() -> None:
    asked = Asked(dict.fromkeys(variables("## The gateway's controller"), "1:1") | {"ATOLL_GATEWAY_PORT": "8080"})
    controller.Environment.read(asked)
    assert variables("## The gateway's controller") == asked.names
    assert required("## The gateway's controller") == asked.names - {"ATOLL_GATEWAY_HOST"}


def test_the_page_has_every_variable_that_the_code_names() -> None:
    found = {name for file in SOURCES for name in re.findall(r"ATOLL_[A-Z]+(?:_[A-Z]+)*", file.read_text("utf-8"))}
    assert {name for name in variables() if name.startswith("ATOLL_")} == found
    assert {"AUTH_USER_<NAME>_PASSWORD", "AUTH_CLIENT_<NAME>_SECRET"} <= variables("## Auth")
    assert variable_for("user", "ada") == "AUTH_USER_ADA_PASSWORD"


def required(heading: str) -> set[str]:
    return {names(row[0])[0] for row in rows(REFERENCE / "environment.md", heading) if row[1] == "yes"}
