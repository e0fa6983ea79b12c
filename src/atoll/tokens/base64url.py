"""base64url without padding (RFC 7515 §2), in its one spelling only."""

from __future__ import annotations

import base64
import binascii

__all__ = ["decoded", "encoded"]


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    """Raises ValueError unless `text` is the one spelling of its bytes: two spellings would be two tokens."""
    raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    if encoded(raw) != text:
        raise binascii.Error("base64url with stray bits or padding")
    return raw
