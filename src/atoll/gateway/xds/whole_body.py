"""Bodies that a service reads whole anyway are sent to it when they are whole: a client that takes a minute to send a form
holds a connection here, where thousands fit, and not a handler there.
"""

from __future__ import annotations

from atoll.gateway.xds.typed import Json, typed, typed_extension

__all__ = ["NAME", "filter_", "per_route"]

NAME = "envoy.filters.http.buffer"
_BUFFER = "envoy.extensions.filters.http.buffer.v3.Buffer"


def filter_(limit_bytes: int) -> Json:
    """Off unless a route turns it on; Envoy wants a limit all the same."""
    return {**typed_extension(NAME, _BUFFER, max_request_bytes=limit_bytes), "disabled": True}


def per_route(limit_bytes: int) -> Json:
    return typed(f"{_BUFFER}PerRoute", buffer={"max_request_bytes": limit_bytes})
