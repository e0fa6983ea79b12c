"""`atoll gateway show` tells whatever the IR holds, also what this test's author did not know of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from atoll.gateway.ir import (
    PUBLIC,
    Canary,
    Cluster,
    Document,
    Endpoint,
    Gateway,
    Issuer,
    Listener,
    MethodRefusal,
    Route,
    TokenRule,
)
from atoll.gateway.paths import Path as Template
from atoll.gateway.show import chosen, plain, text
from tests.unit.test_cli import atoll


@dataclass(frozen=True, slots=True)
class Trial:
    percent: int
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class LaterRoute(Route):
    """What another version of atoll may know of a route."""

    trial: Trial | None = None
    burst: int = 10
    key: str = field(default="", repr=False)


ONE = Route(
    "orders.one", "orders", Template("/orders/{id}"), ("GET", "HEAD"), "orders", TokenRule(scope="orders:read"), 15.0, True
)
STREAM = Route("orders.stream", "orders", Template("/orders/stream"), ("GET",), "orders", PUBLIC, None, True)
HOME = Route("shop.home", "shop", Template("/"), ("GET",), "shop", TokenRule(), 15.0, False)
GATEWAY = Gateway(
    Listener("127.0.0.1", 8080),
    Issuer("http://localhost:8080/auth", "shop"),
    routes=(HOME, STREAM, MethodRefusal(STREAM.path, ("GET",)), ONE, MethodRefusal(ONE.path, ("GET", "HEAD"))),
    clusters=(Cluster("orders", "orders", (Endpoint("127.0.0.1", 2101), Endpoint("::1", 2102))), Cluster("shop", "shop", ())),
    documents=(Document("/docs", "text/html", "é" * 500),),
    faults=("orders: /elsewhere is outside of /orders",),
)


def line(said: str, *words: str) -> str:
    """The one line that has all of these."""
    (found,) = [one for one in said.splitlines() if all(word in one.split() for word in words)]
    return found


def test_a_route_is_a_line_with_what_it_needs_and_where_it_goes() -> None:
    said = text(GATEWAY, {})

    assert line(said, "/orders/{id}").split() == [
        *("GET,HEAD", "/orders/{id}", "orders", "orders:read", "orders.one", "timeout_s=15", "repeatable")
    ]
    assert line(said, "/orders/stream").split()[3:] == ["public", "orders.stream", "timeout_s=none", "repeatable"]
    assert line(said, "shop.home").split()[3:] == ["token", "shop.home", "timeout_s=15"]


def test_replicas_stand_with_their_health_and_a_cluster_without_any_too() -> None:
    said = text(GATEWAY, {("orders", "127.0.0.1:2101"): "healthy", ("orders", "[::1]:2102"): "failed_active_health_check"})

    assert line(said, "127.0.0.1:2101").split()[2:] == ["healthy"]
    assert line(said, "[::1]:2102").split()[2:] == ["failed_active_health_check"]
    assert line(said, "shop", "none")


def test_settings_and_faults_are_told_and_long_texts_are_measured() -> None:
    said = text(GATEWAY, {})

    assert line(said, "issuer").split()[1:] == ["url=http://localhost:8080/auth", "audience=shop"]
    assert "body=(1000 bytes)" in line(said, "documents", "path=/docs")
    assert "faults      orders: /elsewhere is outside of /orders" in said


def test_a_fact_that_is_added_to_the_ir_is_shown_by_itself_unless_it_says_nothing() -> None:
    values = {name: getattr(ONE, name) for name in ONE.__slots__}
    later = LaterRoute(**values, trial=Trial(5, "orders@new"), key="hidden")
    said = text(replace(GATEWAY, routes=(later,)), {})

    assert {"trial.percent=5", "trial.cluster=orders@new", "key=***"} <= set(said.split())
    assert "burst" not in said
    assert plain(later)["trial"] == {"percent": 5, "cluster": "orders@new"}
    assert plain(later)["burst"] == 10
    assert "hidden" not in said + json.dumps(plain(later))


def test_nothing_is_wider_than_128_columns() -> None:
    wide = replace(ONE, path=Template("/orders/" + "x" * 300), name="orders." + "y" * 60)
    faults = ("word " * 80,)

    assert max(map(len, text(replace(GATEWAY, routes=(wide,), faults=faults), {}).splitlines())) <= 128


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("orders", ["orders.stream", "orders.one"]),
        ("orders.one", ["orders.one"]),
        ("/orders/{id}", ["orders.one", None]),
        ("/orders/7", ["orders.one", None]),
        ("/orders/stream", ["orders.stream", None]),
        ("/orders/7/lines", []),
        ("nobody", []),
    ],
)
def test_a_part_is_a_service_an_operation_or_whatever_a_path_meets(what: str, names: list[str | None]) -> None:
    routes, clusters = chosen(GATEWAY, what)

    assert [getattr(route, "name", None) for route in routes] == names
    assert [one.name for one in clusters] == (["orders"] if names else [])


def test_a_part_has_the_clusters_of_both_versions() -> None:
    trial = replace(STREAM, canary=Canary("orders-canary", 10))
    gateway = replace(GATEWAY, routes=(trial,), clusters=(*GATEWAY.clusters, Cluster("orders-canary", "orders", ())))

    assert [one.name for one in chosen(gateway, "/orders/stream")[1]] == ["orders", "orders-canary"]


def test_json_is_the_whole_ir() -> None:
    document = json.loads(json.dumps(plain(GATEWAY)))

    assert document["routes"][3]["path"] == {"template": "/orders/{id}"}
    assert document["routes"][3]["token"] == {"required": True, "scope": "orders:read"}
    assert document["routes"][4] == {"path": {"template": "/orders/{id}"}, "allow": ["GET", "HEAD"]}
    assert document["issuer"]["keys"]["keys"][0]["kid"] == "throwaway"
    assert set(document) == set(GATEWAY.__slots__)


def test_a_system_that_has_never_run_shows_what_its_accepted_contracts_ask_for(tmp_path: Path) -> None:
    legacy = '[services.legacy]\ncommand = ["serve"]\ncontract = "contracts/legacy.json"\nretries.count = 3\n'
    (tmp_path / "atoll.toml").write_text(f'format = 1\nname = "s"\n[gateway]\nport = 8099\n{legacy}')
    paths = {"/legacy/a": {"get": {"operationId": "a", "responses": {"200": {"description": "ok"}}}}}
    openapi = {"openapi": "3.1.0", "info": {"title": "legacy", "version": "1"}, "paths": paths}
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "legacy.json").write_text(json.dumps({"format": 1, "service": "legacy", "openapi": openapi}))

    said = atoll("gateway", "show", folder=tmp_path)

    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("s has never run here.")
    assert "port=8099" in said.stdout
    assert line(said.stdout, "/legacy/a").split()[:5] == ["GET,HEAD", "/legacy/a", "legacy", "token", "legacy.a"]
    assert "retries=3" in line(said.stdout, "/legacy/a")
    assert "failures.retries.count=3" in said.stdout
    refused = atoll("gateway", "show", "nobody", folder=tmp_path)
    assert (refused.returncode, "services: legacy" in refused.stderr) == (1, True)
