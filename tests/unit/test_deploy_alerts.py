"""Alert rules as Prometheus judges them, by its own `promtool` (Debian's package `prometheus`): what is wrong is told, and in
words; what is in order is not.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from atoll.deploy.observability import ALERTS, files

PROMTOOL = shutil.which("promtool")
DAY_S = 86_400
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="THERE IS NO promtool: apt-get install prometheus")

SERVICE = 'atoll_requests_total{{service="orders",operation="place",status="{}"}}'.format
GATEWAY = 'envoy_atoll_requests{{operation="orders.place",status="{}"}}'.format
BUCKET = 'envoy_atoll_duration_ms_bucket{{operation="orders.place",le="{}"}}'.format
HEALTHY = 'envoy_cluster_membership_{}{{envoy_cluster_name="orders"}}'.format
SHOWN = (
    "envoy_listener_ssl_certificate_expiration_unix_time_seconds"
    '{envoy_tls_certificate="server_certificate",envoy_listener_address="0.0.0.0_8443"}'
)
BUS_AUTHORITY = "atoll_gateway_bus_authority_expiration_timestamp_seconds"

# By alert: series that are wrong, series that are not, and what is said of the first. A value per minute.
CASES: dict[str, tuple[Mapping[str, str], Mapping[str, str], str]] = {
    "OutboxWaits": (
        {'atoll_outbox_oldest_seconds{service="orders",replica="orders-1"}': "90x120"},
        {'atoll_outbox_oldest_seconds{service="orders",replica="orders-1"}': "30x120"},
        "events of orders have waited 1m 30s to be published: is the bus there?",
    ),
    "ConsumerLags": (
        {'atoll_consumer_behind{service="inventory",source="orders",replica="inventory-1"}': "2000x120"},
        {'atoll_consumer_behind{service="inventory",source="orders",replica="inventory-1"}': "900x120"},
        "inventory is 2000 events behind orders",
    ),
    "DeadLetters": (
        {'atoll_parked_events{service="inventory",source="orders",state="dead"}': "1x120"},
        {'atoll_parked_events{service="inventory",source="orders",state="waiting"}': "5x120"},
        "inventory gave up on 1 events of orders: they are dead letters now",
    ),
    "ServiceFails": (
        {SERVICE(201): "0+98x120", SERVICE(503): "0+2x120"},
        {SERVICE(201): "0+9990x120", SERVICE(503): "0+10x120", SERVICE(404): "0+1000x120"},
        "2% of the requests to orders end in 5xx",
    ),
    "GatewayFails": (
        {GATEWAY(201): "0+98x120", GATEWAY(503): "0+2x120"},
        {GATEWAY(201): "0+9990x120", GATEWAY(503): "0+10x120", GATEWAY(429): "0+1000x120"},
        "2% of the requests for orders.place end in 5xx at the gateway",
    ),
    "OperationSlow": (
        {BUCKET(1000): "0+50x120", BUCKET(2500): "0+100x120", BUCKET("+Inf"): "0+100x120"},
        {BUCKET(1000): "0+100x120", BUCKET(2500): "0+100x120", BUCKET("+Inf"): "0+100x120"},
        "one in a hundred requests for orders.place takes longer than 2470 ms",
    ),
    "NoReplica": (
        {HEALTHY("healthy"): "0x120", HEALTHY("total"): "2x120"},
        {HEALTHY("healthy"): "0x120", HEALTHY("total"): "0x120"},
        "no replica of orders is healthy",
    ),
    "DatabaseDown": (
        {'atoll_database_up{service="orders"}': "0x120"},
        {'atoll_database_up{service="orders"}': "1x120"},
        "the database of orders does not answer",
    ),
    "BusDown": (
        {'atoll_bus_connected{service="orders"}': "0x120"},
        {'atoll_bus_connected{service="orders"}': "0 1x120"},
        "orders has no bus: its events wait in its outbox",
    ),
    "CertificateEnds": (
        {SHOWN: f"{10 * DAY_S}x120"},
        {SHOWN: f"{30 * DAY_S}x120"},
        "server_certificate of a gateway ends in 9d 22h 1m 0s: does anybody renew it?",
    ),
    "CertificateEndsSoon": (
        {SHOWN: f"{2 * DAY_S}x120"},
        {SHOWN: f"{10 * DAY_S}x120"},
        "server_certificate of a gateway ends in 1d 22h 1m 0s: nobody gets in then",
    ),
    "GatewayRefusesChange": (
        {"atoll_gateway_refused": "1x120"},
        {"atoll_gateway_refused": "0x120"},
        "a change is not in use at a gateway, which goes on with what it had: its log says why",
    ),
    "GatewayLeavesOut": (
        {"atoll_gateway_left_out": "2x120"},
        {"atoll_gateway_left_out": "0x120"},
        "2 operations, contracts or certificates are not used at a gateway: its log says which and why",
    ),
    # 119 minutes are 7,140 seconds.
    "GatewayDrifts": (
        {"atoll_gateway_drift_timestamp_seconds": "7000x120"},
        {"atoll_gateway_drift_timestamp_seconds": "5000x120"},
        "somebody else has changed what a gateway uses; it was put right, and its log says what it was",
    ),
    "BusAuthorityEnds": (
        {BUS_AUTHORITY: f"{100 * DAY_S}x120"},
        {BUS_AUTHORITY: f"{300 * DAY_S}x120"},
        "whoever vouches for the bus ends in 99d 22h 1m 0s: render again, and bring the Secrets",
    ),
}
LABELS = ("service", "source", "operation", "envoy_cluster_name", "envoy_tls_certificate")


def judged(folder: Path, name: str, series: Mapping[str, str], told: list[dict[str, Any]]) -> str:
    """What promtool has to complain of after two hours; "" when just those alerts of that name fire."""
    rules = folder / "alerts.yaml"
    rules.write_text(files("shop")["observability/alerts.yaml"])
    test = {
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "alert_rule_test": [{"eval_time": "119m", "alertname": name, "exp_alerts": told}],
    }
    path = folder / "test.yaml"
    path.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]}))
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, "test", "rules", str(path)], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def expected(name: str) -> dict[str, Any]:
    wrong, _, summary = CASES[name]
    (alert,) = [one for one in ALERTS if one.name == name]
    kept = alert.expression.partition("by (")[2].partition(")")[0].split(", ")
    text = next(iter(wrong))
    labels = {label: text.partition(f'{label}="')[2].partition('"')[0] for label in kept if label in LABELS}
    return {"exp_labels": {"severity": alert.severity, **labels}, "exp_annotations": {"summary": summary}}


def test_every_alert_is_judged_here() -> None:
    assert list(CASES) == [one.name for one in ALERTS]


@needs_promtool
@pytest.mark.parametrize("name", list(CASES))
def test_what_is_wrong_is_told_and_in_words(tmp_path: Path, name: str) -> None:
    assert judged(tmp_path, name, CASES[name][0], [expected(name)]) == ""


@needs_promtool
@pytest.mark.parametrize("name", list(CASES))
def test_what_is_in_order_is_not_told(tmp_path: Path, name: str) -> None:
    assert judged(tmp_path, name, CASES[name][1], []) == ""


@needs_promtool
@pytest.mark.parametrize(("left_at", "told"), [(90, True), (30, False)])
def test_a_service_whose_replicas_have_all_left_is_missed_for_an_hour(tmp_path: Path, left_at: int, told: bool) -> None:
    """As one does whose new version does not come up; after that it is taken for one that shall not run."""
    until_then = f"2x{left_at} 0x{120 - left_at}"
    series = {HEALTHY("healthy"): until_then, HEALTHY("total"): until_then}
    assert judged(tmp_path, "NoReplica", series, [expected("NoReplica")] if told else []) == ""


@needs_promtool
def test_an_alert_that_does_not_fire_is_noticed(tmp_path: Path) -> None:
    assert "CertificateEnds" in judged(tmp_path, "CertificateEnds", CASES["CertificateEnds"][1], [expected("CertificateEnds")])
