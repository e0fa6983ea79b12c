"""Where clients connect: what counts as a valid request, limits on headers and time, ids, logs. Constant in practice:
nothing that changes while a system runs stands here, because a change drains connections.

TCP, UDP (HTTP/3), plain HTTP inside and the listener that only redirects have the same settings: `_manager` makes all of
them.
"""

from __future__ import annotations

from dataclasses import replace

from atoll.gateway.ir import Gateway, Listener, Proxies
from atoll.gateway.xds import (
    access_log,
    early_headers,
    local_reply,
    metrics,
    order,
    proof,
    proxies,
    redirect,
    router,
    routes,
    strict_http1,
    tls,
    tracing,
)
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.typed import Json, seconds, typed, typed_extension
from atoll.system.budgets import BUDGETS

__all__ = ["NAME", "STAT_PREFIX", "resources"]

NAME = "atoll"
STAT_PREFIX = "atoll"
# What a body may take here while its service is slower than its client, and the most that a retry can send again.
_BUFFER_BYTES = 1 << 20
_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_HANDSHAKE_S = 5.0
# What one HTTP/2 or HTTP/3 connection may have open, and how much of each body may be on its way unread.
_STREAMS = 100
_STREAM_WINDOW_BYTES, _CONNECTION_WINDOW_BYTES = 65_536, 1_048_576


def resources(gateway: Gateway, folders: Folders) -> list[Json]:
    """One that serves; perhaps one for HTTP/3, one that redirects, one for inside. The last is for trying routes."""
    found = [_tcp(gateway, folders)]
    settings = gateway.listener.tls
    if settings and settings.http3:
        found.append(_udp(gateway, folders))
    if settings and settings.redirect_port and gateway.public_url:
        found.append(_redirecting(gateway, folders, settings.redirect_port))
    if gateway.listener.inside_port:
        found.append(_inside(gateway, folders, gateway.listener.inside_port))
    return [*found, proof.listener(folders)]


def _tcp(gateway: Gateway, folders: Folders) -> Json:
    chain: Json = {"filters": [strict_http1.filter_(), _serving(gateway, folders)]}
    if gateway.listener.tls:
        chain |= {
            "transport_socket": tls.downstream(folders),
            "transport_socket_connect_timeout": seconds(_HANDSHAKE_S),
        }
    return _behind_proxies(_listener(NAME, gateway.listener, chain), gateway.listener.proxies)


def _behind_proxies(made: Json, trusted: Proxies) -> Json:
    """The same; with the PROXY protocol for those alone who may speak it."""
    if not trusted.protocol:
        return made
    (chain,) = made["filter_chains"]
    matching = {**chain, "filter_chain_match": proxies.chain_match(trusted)}
    return {**made, "listener_filters": proxies.listener_filters(trusted), "filter_chains": [matching]}


def _udp(gateway: Gateway, folders: Folders) -> Json:
    http3 = {
        "codec_type": "HTTP3",
        "http3_protocol_options": {
            "quic_protocol_options": {
                "max_concurrent_streams": _STREAMS,
                "initial_stream_window_size": _STREAM_WINDOW_BYTES,
                "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
            }
        },
    }
    chain = {"filters": [_serving(gateway, folders, **http3)], "transport_socket": tls.quic(folders)}
    made = _listener(f"{NAME}_http3", gateway.listener, chain)
    made["address"]["socket_address"]["protocol"] = "UDP"
    made["udp_listener_config"] = {"quic_options": {}}
    return made


def _redirecting(gateway: Gateway, folders: Folders, port: int) -> Json:
    manager = _manager(gateway, folders, route_config=redirect.routes(gateway.public_url), http_filters=[router.filter_()])
    chain: Json = {"filters": [strict_http1.filter_(), manager]}
    made = _behind_proxies(_listener(redirect.NAME, gateway.listener, chain), gateway.listener.proxies)
    made["address"]["socket_address"]["port_value"] = port
    return made


def _inside(gateway: Gateway, folders: Folders, port: int) -> Json:
    """The same routes, tokens and limits. Nothing is said of TLS (RFC 6797 §7.2), and no load balancer is between."""
    plain = replace(gateway.listener, port=port, tls=None, proxies=Proxies())
    return {**_tcp(replace(gateway, listener=plain), folders), "name": f"{NAME}_inside"}


def _listener(name: str, listener: Listener, chain: Json) -> Json:
    return typed(
        "envoy.config.listener.v3.Listener",
        name=name,
        address={"socket_address": {"address": listener.host, "port_value": listener.port}},
        filter_chains=[chain],
        per_connection_buffer_limit_bytes=_BUFFER_BYTES,
    )


def _serving(gateway: Gateway, folders: Folders, **codec: object) -> Json:
    return _manager(
        gateway,
        folders,
        rds={"route_config_name": routes.NAME, "config_source": folders.source("rds")},
        http_filters=order.filters(gateway, folders),
        **codec,
    )


def _manager(gateway: Gateway, folders: Folders, **own: object) -> Json:
    return typed_extension(
        "envoy.filters.network.http_connection_manager",
        _MANAGER,
        stat_prefix=STAT_PREFIX,
        **own,
        early_header_mutation_extensions=[
            early_headers.extension(gateway.listener.proxies, tracing.early_headers(gateway.tracing))
        ],
        local_reply_config=local_reply.configuration(),
        access_log=[*access_log.loggers(folders.access_log, traced=gateway.tracing is not None), metrics.logger()],
        **tracing.configuration(gateway.tracing),
        **_addresses(gateway.listener.proxies),
        **_paths(),
        **_limits(gateway.listener.max_header_size_kib),
    )


def _addresses(trusted: Proxies) -> Json:
    """By default the client is whoever connected: nobody's X-Forwarded-For is believed. Ids are the gateway's own."""
    return {
        **proxies.addresses(trusted),
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


def _limits(max_header_size_kib: int) -> Json:
    """Those on headers hold in every version of HTTP."""
    return {
        "max_request_headers_kb": max_header_size_kib,
        # x_atoll_subject would become x-atoll-subject in WSGI and CGI environments.
        "common_http_protocol_options": {
            "max_headers_count": 60,
            "headers_with_underscores_action": "REJECT_REQUEST",
            "idle_timeout": "300s",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": _STREAMS,
            "initial_stream_window_size": _STREAM_WINDOW_BYTES,
            "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
        },
        "request_headers_timeout": "5s",
        "stream_idle_timeout": seconds(BUDGETS.gateway_s + 5.0),
    }
