"""Every error atoll raises, split by who must act.

    AtollError                     code, detail, hint, details
    ├─ Mistake                     the caller must change something
    │   ├─ Refused                 any status and code a service chooses
    │   ├─ Malformed               400  not what the media type says it is
    │   ├─ Invalid                 422  well-formed, but wrong; names every faulty field
    │   ├─ Unauthorized            401  no token, or one that does not verify
    │   ├─ Forbidden               403  a good token without the right
    │   ├─ NotFound                404
    │   ├─ Conflict                409
    │   ├─ TooLarge                413
    │   └─ SystemMistake           a manifest, contract, migration or service that can't be used as it stands
    ├─ Outage                      the world failed; the same call may succeed later
    │   ├─ DatabaseOutage
    │   ├─ BusOutage
    │   └─ EngineOutage
    └─ Bug                         atoll or a service broke its own rules

Errors below the edge know nothing of HTTP except the status they are mapped to; `service.problems` turns them into
problem+json (RFC 9457).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "AtollError",
    "Bug",
    "BusOutage",
    "Conflict",
    "DatabaseOutage",
    "EngineOutage",
    "Forbidden",
    "Invalid",
    "Malformed",
    "Mistake",
    "NotFound",
    "Outage",
    "Refused",
    "SystemMistake",
    "TooLarge",
    "Unauthorized",
]


class AtollError(Exception):
    """The root. `code` is stable and meant for programs, `detail` and `hint` are for people."""

    status: ClassVar[int] = 500
    code: str = "error"

    def __init__(self, detail: str = "", *, hint: str = "", **details: Any) -> None:
        super().__init__(detail or type(self).__name__)
        self.detail = detail
        self.hint = hint
        self.details: Mapping[str, Any] = details

    def __str__(self) -> str:
        text = self.detail or self.code
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class Mistake(AtollError):
    """The caller must change something before trying again."""

    status = 400
    code = "mistake"


class Malformed(Mistake):
    """The request is not what its media type says (RFC 9110 §15.5.1)."""

    status = 400
    code = "malformed"


class Invalid(Mistake):
    """Well-formed but wrong. `faults` names every faulty field: `[{"field": "lines[0].quantity", "detail": "…"}]`."""

    status = 422
    code = "invalid"

    def __init__(self, detail: str = "", *, faults: list[dict[str, str]] | None = None, hint: str = "") -> None:
        self.faults = faults or []
        super().__init__(detail or "; ".join(f"{f['field']}: {f['detail']}" for f in self.faults), hint=hint)


class Unauthorized(Mistake):
    """No token, or one that does not verify."""

    status = 401
    code = "unauthorized"


class Forbidden(Mistake):
    """The token is good but does not carry the right."""

    status = 403
    code = "forbidden"


class NotFound(Mistake):
    """There is no such thing, or the caller may not know of it."""

    status = 404
    code = "not_found"


class Conflict(Mistake):
    """The thing is in a state that does not allow this."""

    status = 409
    code = "conflict"


class TooLarge(Mistake):
    """The body is larger than the operation takes."""

    status = 413
    code = "too_large"


class Refused(Mistake):
    """An error of a service's own: `raise Refused(409, "sold_out", "Only two are left")`.

    Subclasses may set `status`, `code` and the detail once: `class UnknownSku(Refused, status=422, code="unknown_sku")`.
    """

    def __init_subclass__(cls, *, status: int | None = None, code: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if status is not None:
            cls.status = status
        if code is not None:
            cls.code = code

    def __init__(self, *args: Any, hint: str = "", **details: Any) -> None:
        match args:
            case (int() as status, str() as code, str() as detail):
                self.status, self.code = status, code  # type: ignore[misc]  # this instance's own
            case (str() as detail,):
                pass
            case ():
                detail = (type(self).__doc__ or "").strip().splitlines()[0] if type(self).__doc__ else ""
            case _:
                raise TypeError("Refused takes (status, code, detail), or a subclass takes (detail)")
        super().__init__(detail, hint=hint, **details)


class SystemMistake(Mistake):
    """A manifest, contract, migration or service that can't be used as it stands; `where` is file:line when known."""

    code = "system"

    def __init__(self, detail: str = "", *, where: str = "", hint: str = "", **details: Any) -> None:
        self.where = where
        super().__init__(detail, hint=hint, **details)

    def __str__(self) -> str:
        return f"{self.where}: {super().__str__()}" if self.where else super().__str__()


class Outage(AtollError):
    """The world failed; the same call may succeed later. An event whose handler raises it is tried again for ever."""

    status = 503
    code = "outage"


class DatabaseOutage(Outage):
    """The service's own database can't be reached or gave up."""

    code = "database_outage"


class BusOutage(Outage):
    """The event bus can't be reached, refused, or did not acknowledge in time."""

    code = "bus_outage"


class EngineOutage(Outage):
    """An engine (Envoy, NATS, PostgreSQL, MongoDB) can't be found, started, or has died."""

    code = "engine_outage"


class Bug(AtollError):
    """atoll or a service broke its own rules; retrying does not help."""

    status = 500
    code = "bug"
