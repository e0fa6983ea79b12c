"""TLS in Envoy's configuration, word for word, and Envoy's own opinion of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from atoll.gateway import validation
from atoll.gateway.files import write_resources
from atoll.gateway.ir import Listener, Tls, Upstream
from atoll.gateway.secrets import Origin, write_secrets
from atoll.gateway.translate import translate
from atoll.gateway.xds.folders import SECRETS, Folders
from atoll.gateway.xds.resources import render
from tests.support.gateway import contract, known, replica
from tests.support.golden import check
from tests.support.tls import Files

FOLDERS = Folders("/shop/.atoll/gateway")
ORDERS = contract("orders", {"/orders": {"get": {"operationId": "all", "security": []}}})
NEAR = replica(ORDERS, "orders-1", "127.0.0.1:2101")
FAR = replica(ORDERS, "orders-2", "10.1.2.3:2102", tls=True)


def _resources() -> dict[str, Any]:
    """Everything that TLS can mean: HTTP/3, a redirect, HSTS, a way in from inside, replicas here and on another machine."""
    what = known(ORDERS, replicas=(NEAR, FAR), public_url="https://shop.example/app")
    listener = Listener("127.0.0.1", 8443, tls=Tls(31_536_000, 8080, http3=True), upstream=Upstream(certified=True))
    return dict(render(translate(what, replace(listener, inside_port=9904)), FOLDERS))


def _shown() -> dict[str, Any]:
    """Without what every listener and cluster has anyway."""
    made = _resources()
    tcp, udp, redirecting, inside, _ = made["lds"]
    manager = tcp["filter_chains"][0]["filters"][-1]["typed_config"]
    return {
        "tcp": {**tcp, "filter_chains": [{**tcp["filter_chains"][0], "filters": ["…"]}]},
        "headers": manager["http_filters"][0],
        "udp": {**udp, "filter_chains": [{**udp["filter_chains"][0], "filters": ["…"]}]},
        "http3": _codec(udp),
        "redirect": {name: redirecting[name] for name in ("name", "address")}
        | {"routes": redirecting["filter_chains"][0]["filters"][-1]["typed_config"]["route_config"]},
        "inside": {**inside, "filter_chains": [{**inside["filter_chains"][0], "filters": ["…"]}]},
        "cluster": {name: made["cds"][0][name] for name in ("load_assignment", "transport_socket_matches")},
    }


def _codec(listener: dict[str, Any]) -> dict[str, Any]:
    manager = listener["filter_chains"][0]["filters"][-1]["typed_config"]
    return {name: manager[name] for name in ("codec_type", "http3_protocol_options")}


def test_tls_is_the_golden_file() -> None:
    check("xds/tls.json", json.dumps(_shown(), indent=1, ensure_ascii=False) + "\n")


def test_tcp_udp_inside_and_the_redirect_have_the_same_settings() -> None:
    """But for the codec, the filters of the redirect and where its routes come from."""
    managers = [one["filter_chains"][0]["filters"][-1]["typed_config"] for one in _resources()["lds"][:-1]]
    own = {"codec_type", "http3_protocol_options", "rds", "route_config", "http_filters"}

    tcp, udp, redirecting, inside = [{name: value for name, value in one.items() if name not in own} for one in managers]

    assert tcp == udp == redirecting == inside
    assert managers[0]["http_filters"] == managers[1]["http_filters"]
    assert managers[0]["rds"] == managers[1]["rds"] == managers[3]["rds"]
    promise, *others = managers[0]["http_filters"]
    assert "strict-transport-security" in json.dumps(promise)
    assert others == managers[3]["http_filters"]


async def test_envoy_accepts_it(tmp_path: Path) -> None:
    """Asked as the controller asks before it writes a change."""
    files = Files(tmp_path / "files")
    files.fill("orders")
    pair = (files.certificate, files.key)
    server, client, authorities = SECRETS
    folders = Folders(str(tmp_path))
    write_resources(folders, _resources())
    write_secrets(folders, [Origin(server, pair), Origin(client, pair), Origin(authorities, (files.ca,))])

    assert await validation.check(json.loads(json.dumps(_resources()).replace(FOLDERS.root, str(tmp_path)))) == ""
