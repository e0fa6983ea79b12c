"""What Envoy takes and HTTP/1.1 does not: bare LF, bare CR and folded header lines, refused before Envoy has read them.

Envoy reads all three without complaint and sends on what it made of them; nothing in its configuration refuses them
(`docs/decisions/0010-strict-http1.md`). So a filter in front of its HTTP reader looks at the bytes: `strict_http1.c`,
compiled to WebAssembly (`make wasm`) and run by Envoy itself. `code` is what `files` writes beside the other files.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["code"]


def code() -> bytes:
    """The compiled filter. `SHA256SUMS` beside it says of which source."""
    return (Path(__file__).parent / "strict_http1.wasm").read_bytes()
