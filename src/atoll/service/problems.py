"""Errors at the edge: problem+json (RFC 9457). What a caller can act on is told; everything else is logged, not told."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from atoll.errors import AtollError, Forbidden, Invalid, Mistake, Outage, SystemMistake, Unauthorized
from atoll.service import context

__all__ = ["MEDIA_TYPE", "Problem", "problem_of"]

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("atoll.service")


class Problem(msgspec.Struct, frozen=True):
    """An error as it is answered."""

    status: int
    code: str
    detail: str = ""
    hint: str = ""
    errors: tuple[dict[str, str], ...] = ()
    details: Mapping[str, Any] | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self) -> bytes:
        """`type` is relative to the service; `request_id` finds the line in the logs."""
        document: dict[str, Any] = {
            "type": f"/problems/{self.code}",
            "title": title(self.status),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "hint": self.hint,
            "errors": self.errors,
            "details": self.details,
            "request_id": context.current().request_id,
        }
        return msgspec.json.encode({name: value for name, value in document.items() if value}, enc_hook=str)


def problem_of(error: BaseException) -> Problem:
    """What the caller is told of `error`. Whatever it may not be told is logged here, with everything."""
    if isinstance(error, SystemMistake):
        return _unexpected(error)
    if isinstance(error, Mistake):
        faults = tuple(error.faults) if isinstance(error, Invalid) else ()
        detail = "" if faults and not error.detail else error.detail
        return Problem(error.status, error.code, detail, error.hint, faults, dict(error.details), _headers(error))
    if isinstance(error, Outage):
        _log.warning("answered 503: %s", error, exc_info=error)
        detail = "something that this service needs can't be reached; the same request may succeed later"
        return Problem(503, error.code, detail, headers=((b"retry-after", b"1"),))
    if (status := getattr(error, "status_code", None)) and hasattr(error, "detail"):
        return _of_starlette(error, status)
    return _unexpected(error)


def _unexpected(error: BaseException) -> Problem:
    code = error.code if isinstance(error, AtollError) and not isinstance(error, SystemMistake) else "internal"
    _log.error("answered 500: %s", error, exc_info=error)
    return Problem(500, code, "an unexpected error; the log has it under this request_id")


def _of_starlette(error: Any, status: int) -> Problem:
    """A Starlette HTTPException, raised by code that knows it."""
    headers = tuple((name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items())
    code = title(status).lower().replace(" ", "_").replace("-", "_").replace("'", "")
    return Problem(status, code, str(error.detail), headers=headers)


def _headers(error: Mistake) -> tuple[tuple[bytes, bytes], ...]:
    """Who says `retry_after_s` is sent the header of that name (RFC 9110 §10.2.3)."""
    wait_s = error.details.get("retry_after_s")
    return _challenge(error) if wait_s is None else ((b"retry-after", b"%d" % math.ceil(wait_s)), *_challenge(error))


def _challenge(error: Mistake) -> tuple[tuple[bytes, bytes], ...]:
    """RFC 6750 §3: what a caller without the right token is told."""
    if isinstance(error, Unauthorized):
        return ((b"www-authenticate", b"Bearer" if error.code == "token_missing" else b'Bearer error="invalid_token"'),)
    if isinstance(error, Forbidden) and (scope := error.details.get("scope")):
        return ((b"www-authenticate", f'Bearer error="insufficient_scope", scope="{scope}"'.encode()),)
    return ()


# Python 3.13 took the new names of RFC 9110; contracts and answers must not depend on the interpreter.
_OLDER_NAMES = {
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    416: "Requested Range Not Satisfiable",
    422: "Unprocessable Entity",
}


def title(status: int) -> str:
    """What the status is called, on every version of Python."""
    if status in _OLDER_NAMES:
        return _OLDER_NAMES[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
