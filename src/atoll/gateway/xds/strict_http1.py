"""Before Envoy's own HTTP reader: 400 for bare LF, bare CR and folded header lines, all of which it would take."""

from __future__ import annotations

from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.typed import Json, typed_extension

__all__ = ["filter_"]

_NAME = "strict_http1"


def filter_(folders: Folders) -> Json:
    """A network filter. One that fails closes the connection that it failed on."""
    machine = {
        "vm_id": _NAME,
        "runtime": "envoy.wasm.runtime.v8",
        "code": {"local": {"filename": folders.strict_http1}},
    }
    return typed_extension(
        "envoy.filters.network.wasm",
        "envoy.extensions.filters.network.wasm.v3.Wasm",
        config={"name": _NAME, "root_id": _NAME, "failure_policy": "FAIL_CLOSED", "vm_config": machine},
    )
