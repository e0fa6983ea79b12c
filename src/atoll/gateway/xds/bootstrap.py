"""What Envoy is started with: where its admin is and where the files are. It never changes while Envoy runs."""

from __future__ import annotations

from atoll.gateway.ir import Endpoint
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.typed import Json

__all__ = ["document"]

# The admin port answers anybody on this machine: reading is all it does, and draining, which the host needs.
_ADMIN_PATHS = ("/ready", "/stats", "/clusters", "/config_dump", "/server_info", "/drain_listeners", "/reopen_logs")


def document(folders: Folders, admin: Endpoint) -> Json:
    return {
        "node": {"id": "atoll", "cluster": "atoll"},
        "admin": {
            "address": {"socket_address": {"address": admin.host, "port_value": admin.port}},
            "allow_paths": [{"prefix": path} for path in _ADMIN_PATHS],
        },
        "dynamic_resources": {"lds_config": folders.source("lds"), "cds_config": folders.source("cds")},
    }
