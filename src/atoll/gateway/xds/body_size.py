"""413 for bodies over the limit of their operation, counted while they stream; nothing is kept here.

The filter that counts takes no limit of a route, so a route with a limit of its own brings a filter of its own: a chain of
one, in place of the default one.
"""

from __future__ import annotations

from atoll.gateway.xds.typed import Json, typed, typed_extension

__all__ = ["NAME", "filter_", "per_route"]

NAME = "envoy.filters.http.filter_chain"
_CHAIN = "envoy.extensions.filters.http.filter_chain.v3.FilterChainConfig"


def filter_(limit_bytes: int) -> Json:
    return typed_extension(NAME, _CHAIN, default_filter_chain=_counting(limit_bytes))


def per_route(limit_bytes: int) -> Json:
    return typed(f"{_CHAIN}PerRoute", filter_chain=_counting(limit_bytes))


def _counting(limit_bytes: int) -> Json:
    counting = typed_extension(
        "envoy.filters.http.body_size_limit",
        "envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit",
        max_request_bytes=limit_bytes,
    )
    return {"filters": [counting]}
