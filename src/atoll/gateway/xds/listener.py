"""Where clients connect: what counts as a valid request, limits on headers and time, ids, logs. Constant in practice:
nothing that changes while a system runs stands here, because a change drains connections.
"""

from __future__ import annotations

from atoll.gateway.ir import Gateway
from atoll.gateway.xds import access_log, early_headers, local_reply, order, routes, strict_http1, tracing
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.typed import Json, seconds, typed, typed_extension
from atoll.system.budgets import BUDGETS

__all__ = ["NAME", "STAT_PREFIX", "resource"]

NAME = "atoll"
STAT_PREFIX = "atoll"
# What a body may take here while its service is slower than its client, and the most that a retry can send again.
_BUFFER_BYTES = 1 << 20
_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def resource(gateway: Gateway, folders: Folders) -> Json:
    listener = gateway.listener
    return typed(
        "envoy.config.listener.v3.Listener",
        name=NAME,
        address={"socket_address": {"address": listener.host, "port_value": listener.port}},
        filter_chains=[{"filters": [strict_http1.filter_(folders), _manager(gateway, folders)]}],
        per_connection_buffer_limit_bytes=_BUFFER_BYTES,
    )


def _manager(gateway: Gateway, folders: Folders) -> Json:
    return typed_extension(
        "envoy.filters.network.http_connection_manager",
        _MANAGER,
        stat_prefix=STAT_PREFIX,
        rds={"route_config_name": routes.NAME, "config_source": folders.source("rds")},
        http_filters=order.filters(gateway, folders),
        early_header_mutation_extensions=[early_headers.extension(tracing.early_headers(gateway.tracing))],
        local_reply_config=local_reply.configuration(),
        access_log=[access_log.logger(folders.access_log, traced=gateway.tracing is not None)],
        **tracing.configuration(gateway.tracing),
        **_addresses(),
        **_paths(),
        **_limits(),
    )


def _addresses() -> Json:
    """The client is whoever connected: nobody's X-Forwarded-For is believed. Ids are the gateway's own."""
    return {
        "use_remote_address": True,
        "xff_num_trusted_hops": 0,
        "generate_request_id": True,
        "preserve_external_request_id": False,
        "always_set_request_id_in_response": True,
        "server_name": "atoll",
    }


def _paths() -> Json:
    """One spelling per path, before it is matched: `/public/../admin` is `/admin`, `%2F` in a path is refused."""
    return {
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
    }


def _limits() -> Json:
    return {
        "max_request_headers_kb": 16,
        # x_atoll_subject would become x-atoll-subject in WSGI and CGI environments.
        "common_http_protocol_options": {
            "max_headers_count": 60,
            "headers_with_underscores_action": "REJECT_REQUEST",
            "idle_timeout": "300s",
        },
        "request_headers_timeout": "5s",
        "stream_idle_timeout": seconds(BUDGETS.gateway_s + 5.0),
    }
