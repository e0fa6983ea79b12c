"""docs/reference holds what the code says: neither more nor less."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from atoll import errors
from atoll.auth.configuration import variable_for
from atoll.auth.passwords import Passwords
from atoll.bus.ports import MAX_PAYLOAD_BYTES
from atoll.database import postgresql
from atoll.database.sqlite_writer import HOLD_S
from atoll.delivery.handling import Patience
from atoll.gateway.environment import Environment as ControllerEnvironment
from atoll.gateway.ir import Listener
from atoll.gateway.mirror import server
from atoll.gateway.xds import local_reply
from atoll.host import logs
from atoll.mongodb import WriteConflict
from atoll.service import caching
from atoll.service.environment import Environment
from atoll.service.operations import BODY_LIMIT_BYTES, MESSAGE_LIMIT_BYTES
from atoll.service.repeats import ANSWER_LIMIT_BYTES, KEY_LIMIT_CHARACTERS
from atoll.service.server import MOUNTED_LIMIT_BYTES
from atoll.service.validation import MAX_FAULTS
from atoll.system import manifest, plan
from atoll.system.budgets import BUDGETS, Budgets
from atoll.system.failures import USUAL
from atoll.system.manifest import tables, values
from atoll.system.manifest.view import RESERVED
from atoll.tokens.verify import MAX_TOKEN_BYTES, Verifier
from tests.support.pages import DOCS, blocks, names, rows
from tests.support.system import ROOT

REFERENCE = DOCS / "reference"
SOURCES = sorted((ROOT / "src" / "atoll").rglob("*.py"))


# the manifest


def keys(table: tables.Table, at: str = "") -> Iterator[tuple[str, values.Check]]:
    """Every key below a table, with what it may be. A key that anybody may choose is NAME."""
    shapes = {**table.keys, **({"NAME": table.named} if table.named else {})}
    for name, shape in shapes.items():
        if isinstance(shape, tables.Table):
            yield from keys(shape, f"{at}{name}.")
        else:
            yield f"{at}{name}", shape


def may_be(check: values.Check) -> str:
    """In the words of the message about a value that is wrong."""
    words = check(None).removeprefix("must be ").removesuffix(", not None")
    return "1" if words == "a whole number from 1 to 1" else words


def documented(heading: str) -> dict[str, str]:
    return {names(row[0])[0]: row[1] for row in rows(REFERENCE / "manifest.md", heading)}


def test_the_manifests_page_has_every_key_and_what_it_may_be() -> None:
    parts = {
        "## `[gateway]`": tables.GATEWAY,
        "## `[auth]`": tables.AUTH,
        "## `[bus]`": tables.BUS,
        "## `[containers]`": tables.CONTAINERS,
        "## `[telemetry]`": tables.TELEMETRY,
        "## `[services.NAME]`": tables.SERVICE,
        "## Top": tables.Table({name: tables.ROOT.keys[name] for name in ("format", "name")}),
    }
    for heading, table in parts.items():
        assert documented(heading) == {name: may_be(check) for name, check in keys(table)}, heading
    assert set(documented("## `[environments.NAME]`")) == set(tables.OVERLAY.keys)
    assert set(tables.ROOT.keys) == {*tables.OVERLAY.keys, "format", "name", "environments"}


def test_the_manifests_page_shows_the_defaults() -> None:
    shown = {names(row[0])[0]: row[2].strip("`") for row in rows(REFERENCE / "manifest.md") if len(row) == 4}
    defaults = {
        "port": manifest.GatewaySpec().port,
        "access_token_lifetime_s": manifest.AuthSpec().access_token_lifetime_s,
        "replicas": default(manifest.ServiceSpec, "replicas"),
        "sampling": default(manifest.TelemetrySpec, "sampling"),
        "mirrors.NAME.share": default(manifest.MirrorSpec, "share"),
    }
    usual = asdict(USUAL)
    groups = {
        f"{group}.{key}": value for group in usual if isinstance(usual[group], dict) for key, value in usual[group].items()
    }
    shown |= {names(row[0])[0]: row[2].strip("`") for row in rows(REFERENCE / "manifest.md", "## `[gateway]`")}
    plain = {key: value for key, value in usual.items() if not isinstance(value, dict)}
    defaults |= {key: f"{value:g}" for key, value in (plain | groups).items() if value is not None}
    assert {name: shown[name] for name in defaults} == {name: str(value) for name, value in defaults.items()}


def test_the_manifest_that_is_shown_can_be_read_and_reserved_names_are_listed() -> None:
    page = REFERENCE / "manifest.md"
    (shown,) = blocks(page, "toml")
    assert [spec.name for spec in manifest.parse(shown.text, Path("atoll.toml")).services] == ["catalog", "orders", "legacy"]
    (reserved,) = [line for line in page.read_text("utf-8").splitlines() if line.endswith("are taken.")]
    assert set(names(reserved)) - {"-"} == RESERVED


# environment variables


NUMBERS = ("ATOLL_GATEWAY_PORT", "ATOLL_GATEWAY_REDIRECT_PORT", "ATOLL_GATEWAY_INSIDE_PORT", "ATOLL_GATEWAY_HSTS_S")
VALUES = dict.fromkeys(NUMBERS, "8080") | {"ATOLL_GATEWAY_UPSTREAM": "plain"}


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
    asked = Asked(dict.fromkeys(variables("## The gateway's controller"), "1:1") | VALUES)
    ControllerEnvironment.read(asked)
    assert variables("## The gateway's controller") == asked.names
    needed = {"ATOLL_BUS_URL", "ATOLL_GATEWAY_DIR", "ATOLL_GATEWAY_PORT", "ATOLL_ENVOY_ADMIN"}
    assert required("## The gateway's controller") == needed
    ControllerEnvironment.read({name: value for name, value in asked.items() if name in needed})


def test_the_page_has_the_variables_of_the_comparing_process() -> None:
    asked = Asked(dict.fromkeys(variables("## The comparing process"), "1:1"))
    server.Environment.read(asked)
    assert variables("## The comparing process") == required("## The comparing process") == asked.names


def test_the_page_has_every_variable_that_the_code_names() -> None:
    found = {name for file in SOURCES for name in re.findall(r"ATOLL_[A-Z]+(?:_[A-Z]+)*", file.read_text("utf-8"))}
    in_files = {name for name in found if name.removesuffix("_FILE") in found - {name}}  # the page says it of all at once
    assert {name for name in variables() if name.startswith("ATOLL_")} == found - in_files
    assert {"AUTH_USER_<NAME>_PASSWORD", "AUTH_CLIENT_<NAME>_SECRET"} <= variables("## Auth")
    assert variable_for("user", "ada") == "AUTH_USER_ADA_PASSWORD"


def required(heading: str) -> set[str]:
    return {names(row[0])[0] for row in rows(REFERENCE / "environment.md", heading) if row[1] == "yes"}


# limits


def test_the_page_has_every_budget_with_its_value() -> None:
    shown = {names(row[0])[0]: row[1].removesuffix(" s") for row in rows(REFERENCE / "limits.md", "## Time budgets")}
    assert shown == {name: f"{getattr(BUDGETS, name):g}" for name in Budgets.__match_args__}


def test_the_page_has_the_pauses_between_tries() -> None:
    patience = Patience()
    *first, last = [f"{pause_s:g}" for pause_s in patience.after_failure_s]
    least, most = patience.after_outage_s[0], patience.after_outage_s[-1]
    text = (REFERENCE / "limits.md").read_text("utf-8")
    assert f"Between the tries of a failing event {', '.join(first)} and {last} s pass" in text
    assert f"while something outside is out {least:g} to {most:g} s" in text


def test_the_page_has_the_sizes() -> None:
    shown = [row[1] for row in rows(REFERENCE / "limits.md", "## Sizes")]
    assert shown == [
        f"{BODY_LIMIT_BYTES} bytes",
        f"{MESSAGE_LIMIT_BYTES} bytes, {MOUNTED_LIMIT_BYTES} bytes of a mounted application",
        f"{MAX_PAYLOAD_BYTES} bytes",
        f"{KEY_LIMIT_CHARACTERS} characters",
        f"{ANSWER_LIMIT_BYTES} bytes",
        f"{caching.ENTRIES}, {caching.SIZE_BYTES} bytes",
        f"{MAX_FAULTS}",
        f"{MAX_TOKEN_BYTES} bytes",
        f"{default(Verifier, 'capacity')}",
        f"{default(Passwords, 'waiting_max')}",
        f"{postgresql._WRITERS} that write, {postgresql._READERS} that read",
        f"{HOLD_S:g} s",
        f"{logs.LIMIT_BYTES} bytes",
        "40, 80 characters",
    ]
    assert Listener("", 0).body_limit_bytes == BODY_LIMIT_BYTES
    assert "{0,39}" in plan._NAME.pattern
    assert "{0,79}" in plan._EVENT.pattern


def default(cls: type[Any], parameter: str) -> Any:
    return inspect.signature(cls).parameters[parameter].default


# errors


def codes(heading: str) -> dict[str, str]:
    """The status that is shown, by code."""
    return {names(row[0])[0]: row[1] for row in rows(REFERENCE / "errors.md", heading)}


def kinds(root: type[errors.AtollError] = errors.AtollError) -> Iterator[type[errors.AtollError]]:
    for cls in root.__subclasses__():
        yield cls
        yield from kinds(cls)


def named(pattern: str, *rooms: str) -> set[str]:
    """What a pattern finds in the sources of some rooms."""
    files = [file for file in SOURCES if file.relative_to(ROOT / "src" / "atoll").parts[0] in rooms]
    return {code for file in files for code in re.findall(pattern, file.read_text("utf-8"))}


def test_the_page_has_every_error_class_of_atoll_with_code_and_status() -> None:
    modules = {errors.__name__, WriteConflict.__module__}
    own = {cls.code: str(cls.status) for cls in kinds() if cls.__module__ in modules}
    assert codes("## Raised by a service") == {code: status for code, status in own.items() if code != "system"}
    for row in rows(REFERENCE / "errors.md", "## Raised by a service"):
        (name,) = names(row[2])
        assert name.removeprefix("atoll.mongodb.") in {cls.__name__ for cls in kinds()}


def test_the_page_has_every_code_of_the_runtime() -> None:
    said = named(r'(?:Problem|Refused|TokenRefused)\(\s*(?:\d+,\s*)?"([a-z_]+)"', "service", "tokens")
    said |= named(r'^    code = "([a-z_]+)"$', "service") | named(r'return TokenRefused\(\s*"([a-z_]+)"', "tokens")
    said |= {"internal", "token_missing"} | named(r'Refused, status=\d+, code="([a-z_]+)"', "service")
    assert set(codes("## Answered by a service's runtime")) == said - {"not_found", "sold_out"}


def test_the_page_has_every_code_of_auth_and_of_the_gateway() -> None:
    auth = named(r'Refused, status=\d+, code="([a-z_]+)"', "auth")
    assert set(codes("## Answered by auth")) == auth
    gateway = {one.code: str(one.answer or one.status) for one in local_reply.PROBLEMS}
    assert codes("## Answered by the gateway") == gateway | {local_reply._ANY.code: "any"}
