"""Why a token is refused."""

from __future__ import annotations

from atoll.errors import Unauthorized

__all__ = ["TokenRefused"]


class TokenRefused(Unauthorized):
    """A token that does not verify. `code` says which check it failed: `token_expired`, `token_signature`, …"""

    def __init__(self, code: str, detail: str, *, hint: str = "") -> None:
        self.code = code
        super().__init__(detail, hint=hint)
