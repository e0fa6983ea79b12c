"""Before Envoy's own HTTP reader: 400 for bare LF, bare CR and folded header lines, all of which it would take
(`docs/decisions/0010-strict-http1.md`).
"""

from __future__ import annotations

from atoll.gateway.xds import module
from atoll.gateway.xds.typed import Json

__all__ = ["NAME", "filter_"]

NAME = "http1"


def filter_() -> Json:
    """A network filter. One that fails closes the connection that it failed on."""
    return module.network_filter(NAME)
