"""413 for bodies over the limit, counted while they stream: nothing is buffered. Holds for all routes alike."""

from __future__ import annotations

from atoll.gateway.xds.typed import Json, typed_extension

__all__ = ["filter_"]


def filter_(limit_bytes: int) -> Json:
    return typed_extension(
        "envoy.filters.http.body_size_limit",
        "envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit",
        max_request_bytes=limit_bytes,
    )
