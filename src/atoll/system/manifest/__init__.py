"""`atoll.toml`: the frozen view, and the rules it has to keep. `system/files.py` reads it from disk.

Every mistake is a SystemMistake with file:line and the keys or values that would be right. Read `view` (what it says), then
`tables` (which keys there are, made of `values`); `reading` turns one into the other, `rules` is what tables keep together.
"""

from atoll.system.manifest.reading import parse
from atoll.system.manifest.tables import MOST_REPLICAS
from atoll.system.manifest.view import (
    GATEWAY_PATHS,
    AuthSpec,
    BusSpec,
    CanarySpec,
    ContainersSpec,
    CorsSpec,
    GatewaySpec,
    MirrorSpec,
    Secret,
    ServiceSpec,
    System,
    TelemetrySpec,
    TlsSpec,
)

__all__ = [
    "GATEWAY_PATHS",
    "MOST_REPLICAS",
    "AuthSpec",
    "BusSpec",
    "CanarySpec",
    "ContainersSpec",
    "CorsSpec",
    "GatewaySpec",
    "MirrorSpec",
    "Secret",
    "ServiceSpec",
    "System",
    "TelemetrySpec",
    "TlsSpec",
    "parse",
]
