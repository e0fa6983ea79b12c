"""Load balancers before the gateway: the client is whom they say it is, and whoever connects without them is nobody else.

Envoy reads X-Forwarded-For from right to left and stops at the first address that is not trusted: everything left of that the
client may have written itself. With the PROXY protocol, a connection that does not come from a trusted address is closed.
"""

from __future__ import annotations

from ipaddress import ip_network
from urllib.parse import urlsplit

from atoll.gateway.ir import Gateway, Proxies
from atoll.gateway.xds.typed import Json, header, typed_extension

__all__ = ["addresses", "chain_match", "listener_filters", "request_headers"]


def addresses(proxies: Proxies) -> Json:
    """How the connection manager finds out who the client is."""
    if not proxies.tell_by_header:
        return {"use_remote_address": True, "xff_num_trusted_hops": 0}
    detection = typed_extension(
        "envoy.http.original_ip_detection.xff",
        "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig",
        xff_trusted_cidrs={"cidrs": _ranges(proxies)},
        skip_xff_append=True,
    )
    return {"use_remote_address": False, "original_ip_detection_extensions": [detection]}


def request_headers(gateway: Gateway) -> list[Json]:
    """What a service is told instead of what came: Envoy leaves that alone when it does not take the connection's address."""
    if not gateway.listener.proxies.tell_by_header:
        return []
    scheme = urlsplit(gateway.public_url).scheme or "http"
    return [header("x-forwarded-for", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"), header("x-forwarded-proto", scheme)]


def listener_filters(proxies: Proxies) -> list[Json]:
    if not proxies.protocol:
        return []
    return [
        typed_extension(
            "envoy.filters.listener.proxy_protocol", "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
        )
    ]


def chain_match(proxies: Proxies) -> Json:
    """By the address of the connection itself, not by the one that is told in it."""
    return {"direct_source_prefix_ranges": _ranges(proxies)} if proxies.protocol else {}


def _ranges(proxies: Proxies) -> list[Json]:
    networks = map(ip_network, proxies.trusted)
    return [{"address_prefix": str(one.network_address), "prefix_len": one.prefixlen} for one in networks]
