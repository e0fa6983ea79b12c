"""Where new routes are tried: a route table that no request meets, of a listener that opens no socket.

Envoy reads it as it reads the real one, with the same code in the same process, and takes it whole or refuses it whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from atoll.gateway.xds import router
from atoll.gateway.xds.folders import PROOF, Folders
from atoll.gateway.xds.typed import Json, typed, typed_extension

__all__ = ["NAME", "listener", "nothing", "table"]

NAME = "atoll_proof"


def listener(folders: Folders) -> Json:
    manager = typed_extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=NAME,
        rds={"route_config_name": NAME, "config_source": folders.source(PROOF)},
        http_filters=[router.filter_()],
    )
    return typed(
        "envoy.config.listener.v3.Listener",
        name=NAME,
        address={"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        bind_to_port=False,
        filter_chains=[{"filters": [manager]}],
    )


def table(tables: Sequence[Json]) -> list[Json]:
    """The same under its own name."""
    return [{**one, "name": NAME} for one in tables]


def nothing() -> list[Json]:
    """A table without routes, for the time between."""
    return [typed("envoy.config.route.v3.RouteConfiguration", name=NAME)]
