"""Requests by operation and status, and how long they took, as Envoy counts them from what it would log.

The scope bounds how many there can be, whatever happens: an operation is a route's name, and every path that no operation has
is counted under the empty one.
"""

from __future__ import annotations

from atoll.gateway.xds.typed import Json, typed_extension

__all__ = ["LOOKED_AT", "PREFIX", "logger", "stats"]

PREFIX = "atoll"
_BOUNDS_MS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
_COUNTERS, _HISTOGRAMS = 50_000, 10_000
# Of Envoy's thousand series what somebody looks at: requests by operation, how replicas are, until when certificates hold.
LOOKED_AT = (
    r"^(atoll\.|server\.(live|uptime|memory_allocated)$|http\.atoll\.downstream_(cx|rq)_active$"
    r"|cluster\..*\.(membership_(healthy|total)|upstream_rq_(active|retry|retry_overflow|pending_overflow)"
    r"|upstream_cx_connect_fail|outlier_detection\.ejections_active)$"
    r"|.*\.ssl\.certificate\..*\.expiration_unix_time_seconds$)"
)


def logger() -> Json:
    """An access logger that counts."""
    operation = {"name": "operation", "value_format": "%ROUTE_NAME%"}
    status = {"name": "status", "value_format": "%RESPONSE_CODE%"}
    return typed_extension(
        "envoy.access_loggers.stats",
        "envoy.extensions.access_loggers.stats.v3.Config",
        stats_scope={"prefix": PREFIX, "max_counters": _COUNTERS, "max_histograms": _HISTOGRAMS},
        counters=[{"stat": {"name": "requests", "tags": [operation, status]}, "value_fixed": 1}],
        histograms=[
            {"stat": {"name": "duration_ms", "tags": [operation]}, "unit": "Milliseconds", "value_format": "%DURATION%"}
        ],
    )


def stats() -> Json:
    """For the bootstrap: as many buckets as are of use, instead of twenty up to an hour."""
    match = {"prefix": f"{PREFIX}."}
    return {"histogram_bucket_settings": [{"match": match, "buckets": list(_BOUNDS_MS)}]}
