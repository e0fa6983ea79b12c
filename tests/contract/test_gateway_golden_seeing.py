"""What Envoy is told about its log, its numbers and the strict reading of HTTP/1.1, word for word."""

from __future__ import annotations

import json
from typing import Any

from atoll.gateway.ir import Endpoint, Gateway, Listener, Overload
from atoll.gateway.translate import translate
from atoll.gateway.xds import bootstrap
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from tests.support.gateway import known
from tests.support.golden import check

FOLDERS = Folders("/shop/.atoll/gateway")


def _gateway(**system: Any) -> Gateway:
    return translate(known(**system), Listener("127.0.0.1", 8080))


def _filters(gateway: Gateway) -> list[dict[str, Any]]:
    """The network filters of the one listener."""
    return list(render(gateway, FOLDERS)["lds"][0]["filter_chains"][0]["filters"])


def test_the_access_log_and_the_numbers_are_the_golden_file() -> None:
    """One line a request from one of two loggers, and a third that counts."""
    loggers = _filters(_gateway())[-1]["typed_config"]["access_log"]
    stats = bootstrap.document(FOLDERS, Endpoint("127.0.0.1", 9901), Overload())["stats_config"]

    check("xds/seeing.json", json.dumps({"access_log": loggers, "stats_config": stats}, indent=1, ensure_ascii=False) + "\n")


def test_with_a_tracer_the_log_alone_differs_and_only_in_the_traces_id() -> None:
    plain = _filters(_gateway())[-1]["typed_config"]["access_log"]
    traced = _filters(_gateway(otlp_endpoint="http://127.0.0.1:4318", sampling=0.1))[-1]["typed_config"]["access_log"]

    assert traced[-1] == plain[-1]
    for one, other in zip(traced[:-1], plain[:-1], strict=True):
        fields, others = (each["typed_config"]["log_format"]["json_format"] for each in (one, other))
        assert {name for name in fields if fields[name] != others[name]} == {"trace_id"}


def test_the_strict_reading_of_http_1_1_is_the_golden_file_and_comes_first() -> None:
    strict, *others = _filters(_gateway())

    assert [one["name"] for one in others] == ["envoy.filters.network.http_connection_manager"]
    check("xds/strict_http1.json", json.dumps(strict, indent=1) + "\n")
