"""Promise 5: no change of routes, keys, certificates or replicas, and no restart of one service, fails a request."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.storm import SERVICES, Plan, storm


def test_no_change_of_routes_keys_certificates_or_replicas_fails_a_request(tmp_path: Path) -> None:
    """The long one: make storm."""
    findings = storm(tmp_path / "storm", Plan(seconds=10, routes=6, keys=3, certificates=3, seed=20261127))

    assert findings.failed == []
    assert findings.reads > 1000
    assert findings.writes > 50
    assert findings.changes == {"route": 6, "key": 3, "certificate": 3, "replicas": 1, "controller": 1} | {
        f"restart {name}": 1 for name in SERVICES
    }
