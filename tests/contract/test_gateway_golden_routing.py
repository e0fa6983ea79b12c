"""What each routing feature adds to Envoy's configuration, word for word: one small file each."""

from __future__ import annotations

import json
from typing import Any

from atoll.gateway.ir import Listener
from atoll.gateway.known import Known
from atoll.gateway.translate import translate
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.resources import render
from tests.support.gateway import contract, known, replica
from tests.support.golden import check

PUBLIC: dict[str, Any] = {"security": []}


def _rendered(what: Known) -> dict[str, list[dict[str, Any]]]:
    return dict(render(translate(what, Listener("127.0.0.1", 8080)), Folders("/shop/.atoll/gateway")))


def _routes(what: Known) -> list[dict[str, Any]]:
    """Those of services; the gateway's own pages stand before them."""
    routes = _rendered(what)["rds"][0]["virtual_hosts"][0]["routes"]
    return [one for one in routes if "/openapi.json" not in str(one) and "/docs" not in str(one)]


def _check(name: str, resources: Any) -> None:
    check(f"xds/{name}.json", json.dumps(resources, indent=1, ensure_ascii=False) + "\n")


def test_retries() -> None:
    orders = contract(
        "orders",
        {
            "/orders/{id}": {
                "get": {"operationId": "one", **PUBLIC, "x-atoll-try-timeout-s": 2},
                "put": {"operationId": "change", **PUBLIC, "x-atoll-repeatable": True},
                "post": {"operationId": "pay", **PUBLIC, "x-atoll-idempotent": True},
            }
        },
    )
    what = known(orders, replicas=(replica(orders, "orders-1", "127.0.0.1:2101"),))

    _check("retries", {"routes": _routes(what), "cluster": _rendered(what)["cds"][0]})
