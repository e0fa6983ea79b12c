"""Replicas: endpoints inline, so that one file watch serves all services. (Every EDS file of its own takes an inotify
instance; beyond 128 of them Envoy aborts.)
"""

from __future__ import annotations

from atoll.gateway.ir import Cluster, Endpoint
from atoll.gateway.xds import tls
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.typed import Json, header, seconds, typed
from atoll.system.contract import Protocol
from atoll.system.failures import FailureDetection, HealthCheck, OutlierEjection

__all__ = ["resource"]

# Below a replica's keep-alive of 75 s, so that it is always the gateway that closes an idle connection, never the replica
# while a request is on its way.
_IDLE_S = 60.0
_CONNECT_S = 0.5
_MANY = 4096
# How much sooner somebody unhealthy is asked again.
_AGAIN = 4
# How many requests a replica gets for each one of a fresh one: Envoy's slow start begins with a tenth too.
_FULL = 10


def resource(cluster: Cluster, folders: Folders) -> Json:
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=cluster.name,
        type="STATIC",
        connect_timeout=seconds(_CONNECT_S),
        lb_policy="LEAST_REQUEST",
        **_slow_start(cluster.failures),
        common_lb_config={
            # 0: never send to replicas that are known to be unhealthy. No replica is a 503, not a guess.
            "healthy_panic_threshold": {"value": cluster.failures.panic_threshold_percent},
            # By default what is found out within a second of another replica's change counts at the end of that second.
            "update_merge_window": seconds(0),
        },
        load_assignment=_assignment(cluster),
        health_checks=[_health_check(cluster.failures.health_check, cluster.protocol)],
        outlier_detection=_outlier_detection(cluster.failures.outlier_ejection),
        circuit_breakers={"thresholds": [_threshold(cluster)]},
        typed_extension_protocol_options={_PROTOCOL: _options(cluster.protocol)},
        **_sockets(cluster, folders),
    )


def _slow_start(failures: FailureDetection) -> Json:
    """Counts for who becomes healthy again. A change of the set makes all replicas new to Envoy, and so all alike: who is new
    beside others has a smaller weight.
    """
    if not failures.slow_start_s:
        return {}
    return {"least_request_lb_config": {"slow_start_config": {"slow_start_window": seconds(failures.slow_start_s)}}}


_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def _options(protocol: Protocol) -> Json:
    """HTTP/2 is spoken only where the service says so: nobody asks a port without TLS what it speaks."""
    return typed(
        _PROTOCOL,
        common_http_protocol_options={"idle_timeout": seconds(_IDLE_S)},
        explicit_http_config={"http2_protocol_options" if protocol == "h2" else "http_protocol_options": {}},
    )


def _threshold(cluster: Cluster) -> Json:
    """The default of three retries at a time is used up by the first replica that dies under load; no bound at all would let
    every waiting client ask a service again that is in trouble already.

    Requests wait for a connection, never for their turn: whoever is one too many is told so at once, and not tried again.
    """
    retries, most = cluster.failures.retries, cluster.concurrency or _MANY
    return {
        "max_connections": cluster.failures.max_connections,
        "max_pending_requests": most,
        "max_requests": most,
        "retry_budget": {
            "budget_percent": {"value": retries.budget_percent},
            "min_retry_concurrency": retries.min_concurrent,
        },
    }


def _assignment(cluster: Cluster) -> Json:
    weighed = any(one.fresh for one in cluster.endpoints)
    weights = [{"load_balancing_weight": 1 if one.fresh else _FULL} if weighed else {} for one in cluster.endpoints]
    places = [{"endpoint": {"address": _address(one)}, **_metadata(one)} for one in cluster.endpoints]
    endpoints = [{**place, **weight} for place, weight in zip(places, weights, strict=True)]
    return {"cluster_name": cluster.name, "endpoints": [{"lb_endpoints": endpoints}] if endpoints else []}


def _sockets(cluster: Cluster, folders: Folders) -> Json:
    """Replicas that speak TLS must prove that they are this service's; health checks go the same way as requests."""
    if not any(one.tls for one in cluster.endpoints):
        return {}
    return {
        "transport_socket_matches": [
            {"name": "tls", "match": {"tls": True}, "transport_socket": tls.upstream(cluster.service, folders)},
            {"name": "plain", "match": {}, "transport_socket": tls.plain()},
        ]
    }


def _metadata(endpoint: Endpoint) -> Json:
    return {"metadata": {"filter_metadata": {"envoy.transport_socket_match": {"tls": True}}}} if endpoint.tls else {}


def _address(endpoint: Endpoint) -> Json:
    return {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}


# A gRPC server answers nothing but gRPC; that it does not know the method is an answer too.
_AS_GRPC: Json = {
    "codec_client_type": "HTTP2",
    "method": "POST",
    "request_headers_to_add": [header("content-type", "application/grpc"), header("te", "trailers")],
}


def _health_check(check: HealthCheck, protocol: Protocol) -> Json:
    """503 is unhealthy: own database gone, or draining. An answer of 404 is a program without our health paths."""
    return {
        "timeout": seconds(check.timeout_s),
        "interval": seconds(check.interval_s),
        "unhealthy_interval": seconds(check.interval_s / _AGAIN),
        "no_traffic_interval": seconds(check.interval_s),
        "unhealthy_threshold": check.unhealthy_threshold,
        "healthy_threshold": check.healthy_threshold,
        "http_health_check": {
            "path": "/health/ready",
            "expected_statuses": [{"start": 200, "end": 500}],
            **(_AS_GRPC if protocol == "h2" else {}),
        },
    }


def _outlier_detection(outliers: OutlierEjection) -> Json:
    """Envoy wants a number also where it counts nothing."""
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": max(1, outliers.consecutive_failures),
        "enforcing_consecutive_local_origin_failure": 100 if outliers.consecutive_failures else 0,
        "enforcing_local_origin_success_rate": 0,
        **({"consecutive_5xx": outliers.consecutive_5xx} if outliers.consecutive_5xx else {}),
        "enforcing_consecutive_5xx": 100 if outliers.consecutive_5xx else 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": seconds(outliers.ejection_s),
        "max_ejection_time": seconds(2 * outliers.ejection_s),
        # By default a single replica is never ejected: its requests are retried while it restarts.
        "max_ejection_percent": outliers.max_ejection_percent,
    }
