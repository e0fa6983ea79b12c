"""Where Prometheus finds this system's metrics: a file for its `file_sd_configs`, kept as long as the system runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from atoll.gateway.ir import Endpoint
from atoll.gateway.xds import metrics
from atoll.host.processes import LOOPBACK, Slot

__all__ = ["document", "write"]


def document(replicas: Iterable[Slot], admin: Endpoint) -> list[dict[str, Any]]:
    """One entry for the gateway and one for each replica that runs atoll."""
    gateway = {"service": "gateway", "__metrics_path__": "/stats/prometheus", "__param_filter": metrics.LOOKED_AT}
    found = [{"targets": [str(admin)], "labels": gateway}]
    for slot in sorted(replicas, key=lambda slot: slot.name):
        labels = {"service": slot.service, "replica": slot.name, "__metrics_path__": "/health/metrics"}
        found.append({"targets": [f"{LOOPBACK}:{slot.port}"], "labels": labels})
    return found


def write(path: Path, found: list[dict[str, Any]]) -> None:
    """In one step, and only when it changed: Prometheus reads it again then."""
    content = json.dumps(found, indent=1) + "\n"
    try:
        if path.read_text() == content:
            return
    except OSError:
        pass
    draft = path.with_suffix(".draft")
    draft.write_text(content)
    os.replace(draft, path)
