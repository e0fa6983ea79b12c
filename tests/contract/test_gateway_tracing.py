"""Tracing as Envoy is told of it, word for word, and Envoy's own opinion of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atoll.engines import envoy
from atoll.gateway.ir import Endpoint, Gateway, Listener, Tracing
from atoll.gateway.known import SystemEntry
from atoll.gateway.translate import translate
from atoll.gateway.xds import tracing
from tests.support.gateway import contract, known
from tests.support.golden import check

ORDERS = contract("orders", {"/orders": {"get": {"operationId": "mine"}}})


def planned(endpoint: str, sampling: float = 0.01) -> Gateway:
    made = known(ORDERS)
    system: SystemEntry = made.system
    told = {name: getattr(system, name) for name in system.__struct_fields__} | {
        "otlp_endpoint": endpoint,
        "sampling": sampling,
    }
    return translate(replace(made, system=SystemEntry(**told)), Listener("127.0.0.1", 8080))


def told(gateway: Gateway) -> dict[str, Any]:
    assert gateway.tracing is not None
    return {
        "manager": tracing.configuration(gateway.tracing),
        "early_headers": tracing.early_headers(gateway.tracing),
        "cluster": tracing.cluster(gateway.tracing),
    }


def test_tracing_is_the_golden_file() -> None:
    check("xds/tracing.json", json.dumps(told(planned("http://127.0.0.1:4318")), indent=1) + "\n")


def test_without_a_collector_there_is_no_tracer() -> None:
    assert planned("").tracing is None
    assert tracing.configuration(None) == {}
    assert tracing.early_headers(None) == []


@pytest.mark.parametrize(
    ("endpoint", "collector", "kind"),
    [
        ("http://127.0.0.1:4318", Endpoint("127.0.0.1", 4318), "STATIC"),
        ("http://collector", Endpoint("collector", 4318), "STRICT_DNS"),
        ("http://[::1]:4400/", Endpoint("::1", 4400), "STATIC"),
    ],
)
def test_a_collector_may_be_an_address_or_a_name(endpoint: str, collector: Endpoint, kind: str) -> None:
    gateway = planned(endpoint)

    assert gateway.tracing == Tracing(collector, 0.01)
    assert told(gateway)["cluster"]["type"] == kind


def test_a_collector_that_cant_be_one_costs_the_traces_and_no_route() -> None:
    gateway = planned("http://collector:99999")

    assert gateway.tracing is None
    assert len(gateway.routes) == len(planned("").routes)
    assert "there are no traces" in gateway.faults[0]


async def test_envoy_accepts_it(tmp_path: Path) -> None:
    golden = json.loads((Path(__file__).parents[1] / "golden/xds/tracing.json").read_text())
    cluster = {name: value for name, value in golden["cluster"].items() if name != "@type"}
    mutation = "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {"name": "x"},
        "early_header_mutation_extensions": [
            {"name": "x", "typed_config": {"@type": mutation, "mutations": golden["early_headers"]}}
        ],
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
        **golden["manager"],
    }
    listener = {
        "name": "x",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }
    (tmp_path / "all.json").write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))

    assert await envoy.check(envoy.find(), tmp_path / "all.json") == ""
