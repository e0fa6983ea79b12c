"""Values in cookies that the visitor can read but not change: JSON, signed with HMAC-SHA256."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TypeVar

import msgspec

__all__ = ["Seal"]

T = TypeVar("T")


class Seal:
    """Signs and opens. What was not signed with this secret, for this purpose, opens as nothing."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def close(self, purpose: str, value: object) -> str:
        body = base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")
        return f"{body}.{self.mark(purpose, body)}"

    def open(self, purpose: str, text: str, kind: type[T]) -> T | None:
        body, _, mark = text.partition(".")
        if not mark or not hmac.compare_digest(mark.encode(), self.mark(purpose, body).encode()):
            return None
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=kind)
        except (ValueError, msgspec.DecodeError):
            return None

    def mark(self, purpose: str, text: str) -> str:
        digest = hmac.new(self._secret, f"{purpose}\n{text}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")
