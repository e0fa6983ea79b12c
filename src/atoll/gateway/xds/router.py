"""The last filter: picks a replica, sends the request, retries."""

from __future__ import annotations

from atoll.gateway.xds.typed import Json, typed_extension

__all__ = ["filter_"]


def filter_() -> Json:
    # No x-envoy-* headers in requests and responses: nobody outside needs to know upstream times and attempt counts.
    return typed_extension(
        "envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers=True
    )
