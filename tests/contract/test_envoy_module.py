"""What Envoy itself says of a configuration that names its module's parts: taken, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atoll.engines import envoy, envoy_module
from atoll.gateway.xds import credentials, module, strict_http1
from atoll.gateway.xds.typed import Json, typed_extension

HTTP = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
SEARCH_PATH = "ENVOY_DYNAMIC_MODULES_SEARCH_PATH"


async def test_its_parts_are_taken(tmp_path: Path) -> None:
    limited = module.per_route("rate_limit_headers", "1000000000 100000000 1000000000 10")

    assert await _said_of(tmp_path, network=strict_http1.filter_(), http=credentials.filter_(), route=limited) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"network": module.network_filter("nonsense")},
        {"http": module.http_filter("nonsense")},
        {"route": module.per_route("rate_limit_headers", "a lot")},
        {"route": module.per_route("nonsense", "")},
    ],
)
async def test_what_it_does_not_know_is_refused(tmp_path: Path, wrong: dict[str, Json]) -> None:
    assert "Failed to initialize" in await _said_of(tmp_path, **wrong)


async def test_an_envoy_that_does_not_find_it_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy_module, "environment", lambda: {SEARCH_PATH: str(tmp_path)})

    assert f"{tmp_path}/libatoll.so" in await _said_of(tmp_path)


async def test_a_module_that_asks_for_what_envoy_lacks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one for a later Envoy would: it is refused when it is loaded, and not when it is called."""
    library = (envoy_module.folder() / "libatoll.so").read_bytes()
    (tmp_path / "libatoll.so").write_bytes(library.replace(b"callback_http_send_response\0", b"callback_http_send_responsx\0"))
    monkeypatch.setattr(envoy_module, "environment", lambda: {SEARCH_PATH: str(tmp_path)})

    assert "undefined symbol: envoy_dynamic_module_callback_http_send_responsx" in await _said_of(tmp_path)


async def _said_of(folder: Path, *, network: Json | None = None, http: Json | None = None, route: Json | None = None) -> str:
    """`network` and `http` stand for the filters, `route` for what the HTTP filter is told on the one route."""
    answer: Json = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    if route:
        answer["typed_per_filter_config"] = {"atoll.rate_limit_headers": route}
    hosts = [{"name": "all", "domains": ["*"], "routes": [answer]}]
    filters = [
        http or module.http_filter("rate_limit_headers"),
        typed_extension("router", "envoy.extensions.filters.http.router.v3.Router"),
    ]
    manager = typed_extension("http", HTTP, stat_prefix="x", route_config={"virtual_hosts": hosts}, http_filters=filters)
    listener: dict[str, Any] = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [network or strict_http1.filter_(), manager]}],
    }
    file = folder / "bootstrap.json"
    file.write_text(json.dumps({"static_resources": {"listeners": [listener]}}))
    return await envoy.check(envoy.find(), file)
