"""TLS in Envoy's configuration, word for word, and Envoy's own opinion of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from atoll.certificates.authority import Authority
from atoll.engines import envoy
from atoll.gateway.ir import Listener, Tls, Upstream
from atoll.gateway.translate import translate
from atoll.gateway.xds import tls
from atoll.gateway.xds.folders import SECRETS, Folders
from atoll.gateway.xds.resources import render
from tests.support.gateway import contract, known, replica
from tests.support.golden import check

FOLDERS = Folders("/shop/.atoll/gateway")
ORDERS = contract("orders", {"/orders": {"get": {"operationId": "all", "security": []}}})
NEAR = replica(ORDERS, "orders-1", "127.0.0.1:2101")
FAR = replica(ORDERS, "orders-2", "10.1.2.3:2102", tls=True)


def _resources() -> dict[str, Any]:
    """Everything that TLS can mean: HTTP/3, a redirect, HSTS, one replica here and one on another machine."""
    what = known(ORDERS, replicas=(NEAR, FAR), public_url="https://shop.example/app")
    listener = Listener("127.0.0.1", 8443, tls=Tls(31_536_000, 8080, http3=True), upstream=Upstream(certified=True))
    return dict(render(translate(what, listener), FOLDERS))


def _shown() -> dict[str, Any]:
    """Without what every listener and cluster has anyway."""
    made = _resources()
    tcp, udp, redirecting = made["lds"]
    manager = tcp["filter_chains"][0]["filters"][0]["typed_config"]
    return {
        "tcp": {**tcp, "filter_chains": [{**tcp["filter_chains"][0], "filters": ["…"]}]},
        "headers": manager["http_filters"][0],
        "udp": {**udp, "filter_chains": [{**udp["filter_chains"][0], "filters": ["…"]}]},
        "http3": _codec(udp),
        "redirect": {name: redirecting[name] for name in ("name", "address")}
        | {"routes": redirecting["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]},
        "cluster": {name: made["cds"][0][name] for name in ("load_assignment", "transport_socket_matches")},
    }


def _codec(listener: dict[str, Any]) -> dict[str, Any]:
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return {name: manager[name] for name in ("codec_type", "http3_protocol_options")}


def test_tls_is_the_golden_file() -> None:
    check("xds/tls.json", json.dumps(_shown(), indent=1, ensure_ascii=False) + "\n")


def test_tcp_udp_and_the_redirect_have_the_same_settings() -> None:
    """But for the codec, the filters of the redirect and where its routes come from."""
    managers = [one["filter_chains"][0]["filters"][0]["typed_config"] for one in _resources()["lds"]]
    own = {"codec_type", "http3_protocol_options", "rds", "route_config", "http_filters"}

    tcp, udp, redirecting = [{name: value for name, value in one.items() if name not in own} for one in managers]

    assert tcp == udp == redirecting
    assert managers[0]["http_filters"] == managers[1]["http_filters"]
    assert managers[0]["rds"] == managers[1]["rds"]


async def test_envoy_accepts_it(tmp_path: Path) -> None:
    """`--mode validate` follows no subscription, so secrets, routes and the token check are put in their place."""
    made = json.loads(json.dumps(_resources()).replace("/shop/.atoll/gateway", str(tmp_path)))
    token_check = {name: made["ecds"][0][name] for name in ("name", "typed_config")}
    for listener in made["lds"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        if manager.pop("rds", None):
            manager["route_config"] = made["rds"][0]
        manager["http_filters"] = [token_check if "config_discovery" in one else one for one in manager["http_filters"]]
    static = {"listeners": made["lds"], "clusters": made["cds"], "secrets": _secrets()}
    document = json.loads(json.dumps(static), object_hook=_without_discovery)
    (tmp_path / "all.json").write_text(json.dumps({"static_resources": document}))

    assert await envoy.check(envoy.find(), tmp_path / "all.json") == ""


def _secrets() -> list[dict[str, Any]]:
    hour = timedelta(hours=1)
    pair = Authority.make("a test", datetime.now(UTC), hour).issue(["localhost"], "server", datetime.now(UTC), hour)
    chain, key = pair.chain.decode(), pair.key.decode()
    server, client, ca = SECRETS
    return [tls.certificate(server, chain, key), tls.certificate(client, chain, key), tls.authorities(ca, chain)]


def _without_discovery(found: dict[str, Any]) -> dict[str, Any]:
    """A secret that is named without a source is a static one; messages in a list of their own type have no @type."""
    found.pop("sds_config", None)
    if found.get("@type", "").rsplit(".", 1)[-1] in ("Listener", "Cluster", "RouteConfiguration", "Secret"):
        del found["@type"]
    return found
