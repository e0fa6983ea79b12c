"""Traces: the gateway chooses which requests are recorded, begins or continues their trace, and sends its own spans as OTLP.

A client's traceparent is continued, but its sampled flag decides nothing: Envoy writes its own decision into the one that it
sends on, which services go by.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from atoll.gateway.ir import Tracing
from atoll.gateway.xds.typed import Json, header, seconds, typed, typed_extension

__all__ = ["CLUSTER", "cluster", "configuration", "early_headers"]

# No service can be called that.
CLUSTER = "atoll.otlp"
_CONNECT_S = 0.5
_SEND_S = 5.0


def configuration(tracing: Tracing | None) -> Json:
    """Fields of the HttpConnectionManager; without tracing there are none, and a traceparent passes as it came."""
    if tracing is None:
        return {}
    provider = typed_extension(
        "envoy.tracers.opentelemetry",
        "envoy.config.trace.v3.OpenTelemetryConfig",
        service_name="gateway",
        http_service={
            "http_uri": {"uri": f"http://{tracing.collector}/v1/traces", "cluster": CLUSTER, "timeout": seconds(_SEND_S)}
        },
    )
    percent = {"value": round(100 * tracing.sampling, 4)}
    return {
        "tracing": {
            # `x-client-trace-id` would force a trace.
            "client_sampling": {"value": 0},
            "random_sampling": percent,
            # A span of its own for what is sent to a replica, or retries and waiting could not be told from the service.
            "spawn_upstream_span": True,
            "operation": "%REQ(:METHOD)% %ROUTE_NAME%",
            "upstream_operation": "%REQ(:METHOD)% %ROUTE_NAME% to %UPSTREAM_CLUSTER%",
            "custom_tags": [{"tag": "atoll.operation", "value": "%ROUTE_NAME%"}],
            "provider": provider,
        }
    }


def early_headers(tracing: Tracing | None) -> list[Json]:
    """A client's trace counts as recorded before Envoy decides, or one that says it is not could never be chosen."""
    if tracing is None:
        return []
    without_flags = "%REQ(TRACEPARENT):53%"
    return [{"append": {**header("traceparent", f"{without_flags}01"), "append_action": "OVERWRITE_IF_EXISTS"}}]


def cluster(tracing: Tracing) -> Json:
    """The collector. One that can't be reached costs its spans and nothing else."""
    address = {"socket_address": {"address": tracing.collector.host, "port_value": tracing.collector.port}}
    endpoints: list[dict[str, Any]] = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=CLUSTER,
        type="STATIC" if _is_address(tracing.collector.host) else "STRICT_DNS",
        connect_timeout=seconds(_CONNECT_S),
        load_assignment={"cluster_name": CLUSTER, "endpoints": endpoints},
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
