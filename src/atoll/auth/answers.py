"""Answers that say more than their content: headers that keep secrets out of caches, and OAuth's errors."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from atoll.auth.oauth import OAuthError

__all__ = ["UNCACHED", "answer", "refusal"]

UNCACHED = {"cache-control": "no-store", "pragma": "no-cache"}  # RFC 6749 §5.1


def answer(content: object, headers: Mapping[str, str], status: int = 200) -> Response:
    """JSON with these headers."""
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def refusal(error: OAuthError) -> Response:
    """An error of RFC 6749 §5.2."""
    challenge = {"www-authenticate": 'Basic realm="auth"'} if error.status == 401 else {}
    return answer(error.body, UNCACHED | challenge, error.status)
