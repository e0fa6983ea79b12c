"""What Envoy is started with: where its admin is and where the files are. It never changes while Envoy runs."""

from __future__ import annotations

from atoll.gateway.ir import Endpoint, Overload
from atoll.gateway.xds import metrics, overload
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.typed import Json

__all__ = ["NODE", "document", "runtime"]

# Nobody is asked by this name, but Envoy subscribes to no secret without one.
NODE = {"id": "atoll", "cluster": "atoll"}

# The admin port answers anybody on this machine: reading is all it does, and draining, which the host needs.
_DRAINING = ("/drain_listeners", "/healthcheck/fail")
_ADMIN_PATHS = ("/ready", "/stats", "/clusters", "/config_dump", "/server_info", "/reopen_logs", *_DRAINING)
# A chunk's end that is LF without CR is refused (RFC 9112 §7.1); heads are `strict_http1`'s.
# And how many requests of one connection are begun before the others get their turn: a client that opens and resets HTTP/2
# streams as fast as it can (CVE-2023-44487) keeps nobody waiting. Envoy cuts it off after 500 of them anyway.
# And how large an expression may be, in RE2's steps, about one a character: the 100 that it takes by default are fewer than an
# ordinary path with parameters has, and RE2's time is linear whatever is in it.
_RUNTIME = {
    "envoy.reloadable_features.strict_chunk_parsing": True,
    "http.max_requests_per_io_cycle": 10,
    "re2.max_program_size.error_level": 10_000,
    "re2.max_program_size.warn_level": 10_000,
}


def document(folders: Folders, admin: Endpoint, limits: Overload) -> Json:
    return {
        "node": NODE,
        "admin": {
            "address": {"socket_address": {"address": admin.host, "port_value": admin.port}},
            "allow_paths": [{"prefix": path} for path in _ADMIN_PATHS],
        },
        "stats_config": metrics.stats(),
        "overload_manager": overload.manager(limits),
        "layered_runtime": runtime(),
        "dynamic_resources": {"lds_config": folders.source("lds"), "cds_config": folders.source("cds")},
    }


def runtime() -> Json:
    """Which of Envoy's own switches are set."""
    return {"layers": [{"name": "atoll", "static_layer": _RUNTIME}]}
