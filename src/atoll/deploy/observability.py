"""What to watch, as files: alert rules for Prometheus and dashboards for Grafana, of metrics that atoll really has. Pure.

docs/reference/metrics.md describes the metrics. Nothing here knows where a system runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.deploy import yaml

__all__ = ["ALERTS", "Alert", "files"]

_SHOWN = 24
_WIDTH, _HEIGHT = 12, 8


@dataclass(frozen=True, slots=True)
class Alert:
    """`expression` is true while something is wrong; after `minutes` of that somebody is told `summary`."""

    name: str
    expression: str
    minutes: int
    severity: str
    summary: str


# What Envoy shows to clients, and what it shows to replicas that speak TLS; neither is there without TLS.
_ENDS = (
    "envoy_listener_ssl_certificate_expiration_unix_time_seconds or envoy_cluster_ssl_certificate_expiration_unix_time_seconds"
)
# Databases of several replicas are told by each of them: the maximum, never the sum.
ALERTS = (
    Alert(
        "OutboxWaits",
        "max by (service) (atoll_outbox_oldest_seconds) > 60",
        5,
        "critical",
        "events of {{ $labels.service }} have waited {{ $value | humanizeDuration }} to be published: is the bus there?",
    ),
    Alert(
        "ConsumerLags",
        "max by (service, source) (atoll_consumer_behind) > 1000",
        10,
        "warning",
        "{{ $labels.service }} is {{ $value }} events behind {{ $labels.source }}",
    ),
    Alert(
        "DeadLetters",
        'max by (service, source) (atoll_parked_events{state="dead"}) > 0',
        1,
        "warning",
        "{{ $labels.service }} gave up on {{ $value }} events of {{ $labels.source }}: they are dead letters now",
    ),
    Alert(
        "ServiceFails",
        'sum by (service) (rate(atoll_requests_total{status=~"5.."}[5m]))'
        " / sum by (service) (rate(atoll_requests_total[5m])) > 0.01",
        5,
        "critical",
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.service }} end in 5xx",
    ),
    Alert(
        "GatewayFails",
        'sum by (operation) (rate(envoy_atoll_requests{status=~"5.."}[5m]))'
        " / sum by (operation) (rate(envoy_atoll_requests[5m])) > 0.01",
        5,
        "critical",
        "{{ $value | humanizePercentage }} of the requests for {{ $labels.operation }} end in 5xx at the gateway",
    ),
    Alert(
        "OperationSlow",
        "histogram_quantile(0.99, sum by (operation, le) (rate(envoy_atoll_duration_ms_bucket[5m]))) > 1000",
        10,
        "warning",
        "one in a hundred requests for {{ $labels.operation }} takes longer than {{ $value }} ms",
    ),
    # A replica that ends leaves the registry, so where the next one does not come up there may be none. Who has had none for an
    # hour shall have none.
    Alert(
        "NoReplica",
        "min by (envoy_cluster_name) (envoy_cluster_membership_healthy) == 0"
        " and max by (envoy_cluster_name) (max_over_time(envoy_cluster_membership_total[1h])) > 0",
        1,
        "critical",
        "no replica of {{ $labels.envoy_cluster_name }} is healthy",
    ),
    Alert(
        "DatabaseDown",
        "min by (service) (atoll_database_up) == 0",
        1,
        "critical",
        "the database of {{ $labels.service }} does not answer",
    ),
    Alert(
        "BusDown",
        "min by (service) (atoll_bus_connected) == 0",
        2,
        "critical",
        "{{ $labels.service }} has no bus: its events wait in its outbox",
    ),
    Alert(
        "CertificateEnds",
        f"min by (envoy_tls_certificate) ({_ENDS}) - time() < 14 * 86400",
        60,
        "warning",
        "{{ $labels.envoy_tls_certificate }} of a gateway ends in {{ $value | humanizeDuration }}: does anybody renew it?",
    ),
    Alert(
        "CertificateEndsSoon",
        f"min by (envoy_tls_certificate) ({_ENDS}) - time() < 3 * 86400",
        5,
        "critical",
        "{{ $labels.envoy_tls_certificate }} of a gateway ends in {{ $value | humanizeDuration }}: nobody gets in then",
    ),
    Alert(
        "GatewayRefusesChange",
        "max(atoll_gateway_refused) > 0",
        5,
        "critical",
        "a change is not in use at a gateway, which goes on with what it had: its log says why",
    ),
    Alert(
        "GatewayLeavesOut",
        "max(atoll_gateway_left_out) > 0",
        5,
        "warning",
        "{{ $value }} operations, contracts or certificates are not used at a gateway: its log says which and why",
    ),
    Alert(
        "GatewayDrifts",
        "max(atoll_gateway_drift_timestamp_seconds) > time() - 900",
        0,
        "warning",
        "somebody else has changed what a gateway uses; it was put right, and its log says what it was",
    ),
    Alert(
        "BusAuthorityEnds",
        "min(atoll_gateway_bus_authority_expiration_timestamp_seconds) - time() < 180 * 86400",
        60,
        "warning",
        "whoever vouches for the bus ends in {{ $value | humanizeDuration }}: render again, and bring the Secrets",
    ),
)


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    expression: str
    legend: str
    unit: str = "short"


_OVERVIEW = (
    _Panel("Requests at the gateway", "sum by (operation) (rate(envoy_atoll_requests[5m]))", "{{operation}}", "reqps"),
    _Panel("Answered with 5xx", 'sum by (operation) (rate(envoy_atoll_requests{status=~"5.."}[5m]))', "{{operation}}", "reqps"),
    _Panel(
        "One in a hundred takes longer",
        "histogram_quantile(0.99, sum by (operation, le) (rate(envoy_atoll_duration_ms_bucket[5m])))",
        "{{operation}}",
        "ms",
    ),
    _Panel("Healthy replicas", "min by (envoy_cluster_name) (envoy_cluster_membership_healthy)", "{{envoy_cluster_name}}"),
    _Panel("Retries", "sum by (envoy_cluster_name) (rate(envoy_cluster_upstream_rq_retry[5m]))", "{{envoy_cluster_name}}"),
    _Panel("Memory of the gateway", "envoy_server_memory_allocated", "{{instance}}", "bytes"),
    _Panel("Until a certificate ends", f"min by (envoy_tls_certificate) ({_ENDS}) - time()", "{{envoy_tls_certificate}}", "s"),
)
_SERVICES = (
    _Panel("Requests", "sum by (service) (rate(atoll_requests_total[5m]))", "{{service}}", "reqps"),
    _Panel(
        "One in a hundred takes longer",
        "histogram_quantile(0.99, sum by (service, le) (rate(atoll_request_seconds_bucket[5m])))",
        "{{service}}",
        "s",
    ),
    _Panel("CPU", "sum by (service) (rate(atoll_cpu_seconds_total[5m]))", "{{service}}"),
    _Panel("Memory at its highest", "max by (service) (atoll_memory_bytes)", "{{service}}", "bytes"),
    _Panel("Stalls of the event loop", "sum by (service) (rate(atoll_loop_stalls_total[5m]))", "{{service}}"),
    _Panel("Databases that answer", "min by (service) (atoll_database_up)", "{{service}}"),
)
_EVENTS = (
    _Panel("Handled", "sum by (service, type) (rate(atoll_events_total[5m]))", "{{service}} {{type}}"),
    _Panel("The oldest that waits to be published", "max by (service) (atoll_outbox_oldest_seconds)", "{{service}}", "s"),
    _Panel("Waiting to be published", "max by (service) (atoll_outbox_rows)", "{{service}}"),
    _Panel("Behind", "max by (service, source) (atoll_consumer_behind)", "{{service}} ← {{source}}"),
    _Panel("Parked", "max by (service, source, state) (atoll_parked_events)", "{{service}} ← {{source}} {{state}}"),
    _Panel("Connected to the bus", "min by (service) (atoll_bus_connected)", "{{service}}"),
)
_DASHBOARDS: Mapping[str, tuple[_Panel, ...]] = {"gateway": _OVERVIEW, "services": _SERVICES, "events": _EVENTS}


def files(system: str) -> dict[str, str]:
    """`observability/…`: rules in Prometheus's own format, and a dashboard each for gateway, services and events."""
    rules = {"groups": [{"name": system, "rules": [_rule(one) for one in ALERTS]}]}
    found = {"observability/alerts.yaml": "# Rendered by atoll; what is changed here is overwritten.\n" + yaml.text(rules)}
    for name, panels in _DASHBOARDS.items():
        text = json.dumps(_dashboard(system, name, panels), indent=1, ensure_ascii=False)
        found[f"observability/dashboards/{name}.json"] = text + "\n"
    return found


def _rule(one: Alert) -> dict[str, Any]:
    return {
        "alert": one.name,
        "expr": one.expression,
        "for": f"{one.minutes}m",
        "labels": {"severity": one.severity},
        "annotations": {"summary": one.summary},
    }


def _dashboard(system: str, name: str, panels: tuple[_Panel, ...]) -> dict[str, Any]:
    return {
        "uid": f"atoll-{system}-{name}"[:40],
        "title": f"{system}: {name}",
        "tags": ["atoll", system],
        "timezone": "utc",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus", "current": {}}]
        },
        "panels": [_panel(number, one) for number, one in enumerate(panels)],
    }


def _panel(number: int, one: _Panel) -> dict[str, Any]:
    column, row = number % (_SHOWN // _WIDTH), number // (_SHOWN // _WIDTH)
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": one.title,
        "datasource": source,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": one.unit, "min": 0}, "overrides": []},
        "targets": [{"refId": "A", "datasource": source, "expr": one.expression, "legendFormat": one.legend}],
    }
