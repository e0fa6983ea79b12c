"""One JSON line a request. Never a query string (they hold tokens and names) and never a header that holds a secret."""

from __future__ import annotations

from atoll.gateway.xds.typed import Json, typed_extension

__all__ = ["FIELDS", "logger"]

FIELDS = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%E3SZ)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    # Empty when the client sent none: the service then makes the trace id from the request id without its dashes.
    "traceparent": "%REQ(TRACEPARENT)%",
    "subject": "%REQ(X-ATOLL-SUBJECT)%",
    "operation": "%ROUTE_NAME%",
    "service": "%UPSTREAM_CLUSTER%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "status": "%RESPONSE_CODE%",
    "duration_ms": "%DURATION%",
    "upstream_ms": "%RESPONSE_DURATION%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "replica": "%UPSTREAM_HOST%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    # Envoy's own words for what went wrong: https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
}


def logger(path: str) -> Json:
    return typed_extension(
        "envoy.access_loggers.file",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        path=path,
        log_format={"json_format": FIELDS},
    )
