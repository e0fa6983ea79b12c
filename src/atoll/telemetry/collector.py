"""Where the collector of an `otlp_endpoint` is."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["PORT", "collector_at"]

PORT = 4318
"""Where a collector listens unless its URL says otherwise."""


def collector_at(endpoint: str) -> tuple[str, int]:
    """Host and port of a collector's URL."""
    parts = urlsplit(endpoint)
    return parts.hostname or "", parts.port or PORT
