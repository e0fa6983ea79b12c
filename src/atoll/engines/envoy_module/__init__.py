"""What we add to Envoy itself: one shared library that it loads, in C, compiled for each platform that Envoy's wheel has.

What Envoy's own settings can't say, or say at a price (`docs/decisions/0017-envoy-module.md`): a reader that takes HTTP/1.1 as
it is written down, one credential for each request, `RateLimit-*` headers, and the trace id of a log line. `core.h` says what
is computed, `module.c` is what Envoy calls, and `make native` compiles both. `atoll.gateway.xds` says where each is used.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from atoll.errors import EngineOutage

__all__ = ["NAME", "environment", "folder"]

NAME = "atoll"
"""What Envoy's configuration calls it."""
_FOLDERS = {("Linux", "x86_64"): "x86_64-linux", ("Linux", "aarch64"): "aarch64-linux", ("Darwin", "arm64"): "aarch64-macos"}
_PLATFORMS = "Linux on x86_64 and aarch64 and macOS on arm64"


def folder() -> Path:
    """Where this machine's is. Raises EngineOutage on a platform that there is none for, and when it is missing."""
    here = platform.system(), platform.machine()
    if here not in _FOLDERS:
        raise EngineOutage(
            f"the gateway's module for Envoy is compiled for {_PLATFORMS}; this is {' on '.join(here)}",
            hint="run the system in containers: atoll render compose",
        )
    found = Path(__file__).parent / _FOLDERS[here]
    if not (file := found / f"lib{NAME}.so").is_file():
        raise EngineOutage(f"the gateway's module for Envoy is not there: {file}", hint="install atoll anew")
    return found


def environment() -> Mapping[str, str]:
    """What Envoy must be started with to find it. Raises EngineOutage as `folder` does."""
    return {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(folder())}
