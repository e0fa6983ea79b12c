"""Every answer that the gateway makes itself is problem+json (RFC 9457) in the shape that services use too.

A 5xx says nothing of addresses, connections or Envoy: those stand in the access log under the same request id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atoll.gateway.xds import credentials, revocations
from atoll.gateway.xds.typed import Json, header, typed_extension

__all__ = ["PROBLEMS", "Problem", "configuration"]

# What Envoy or a direct response says; only where that is ours, or meant for clients.
_OWN_WORDS = "%LOCAL_REPLY_BODY%"
_SCOPE = "%METADATA(ROUTE:atoll:scope)%"
_TOKEN_HINT = "Get a token from POST /auth/token and send it as `Authorization: Bearer …`"


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of error. `when` narrows it to one cause of the status; `answer` replaces the status."""

    status: int
    code: str
    title: str
    detail: str
    hint: str = ""
    when: str = ""
    answer: int | None = None
    headers: tuple[tuple[str, str], ...] = ()


def _is(details: str) -> str:
    return f'response.code_details == "{details}"'


def _refused_by(policy: str) -> str:
    return f'response.code_details.startsWith("rbac_access_denied_matched_policy[{policy}")'


_CHALLENGE = (("www-authenticate", 'Bearer error="insufficient_scope", scope="' + _SCOPE + '"'),)
_RETRY = (("retry-after", "1"),)

# The first that fits counts.
PROBLEMS = (
    Problem(
        400,
        "two_credentials",
        "Bad Request",
        _OWN_WORDS,
        when=_is("lua_response"),
    ),
    Problem(
        400,
        "two_credentials",
        "Bad Request",
        "Send exactly one credential: Authorization, X-API-Key, or one protocol `bearer.<token>` of a WebSocket",
        when=_is(credentials.TWO),
    ),
    Problem(400, "malformed", "Bad Request", "The request is not valid HTTP, or its path or headers are not allowed"),
    Problem(
        401,
        "unauthorized",
        "Unauthorized",
        "Authorization is not `Bearer <token>`",
        _TOKEN_HINT,
        when=_is(credentials.NOT_BEARER),
        headers=(("www-authenticate", "Bearer"),),
    ),
    Problem(401, "unauthorized", "Unauthorized", _OWN_WORDS, _TOKEN_HINT),
    # Envoy answers 403 to a token for somebody else (RFC 6750 §3.1 says invalid_token, 401).
    Problem(
        403,
        "unauthorized",
        "Unauthorized",
        _OWN_WORDS,
        _TOKEN_HINT,
        when='response.code_details.startsWith("jwt_authn")',
        answer=401,
        headers=(("www-authenticate", 'Bearer error="invalid_token"'),),
    ),
    Problem(
        403,
        "token_revoked",
        "Unauthorized",
        "The session was ended",
        "Sign in again: POST /auth/token",
        when=_refused_by(revocations.POLICY),
        answer=401,
        headers=(("www-authenticate", 'Bearer error="invalid_token", error_description="the session was ended"'),),
    ),
    Problem(
        403,
        "forbidden",
        "Forbidden",
        "This operation needs the scope " + _SCOPE,
        when='response.code_details.startsWith("rbac")',
        headers=_CHALLENGE,
    ),
    Problem(
        403,
        "forbidden",
        "Forbidden",
        "This operation takes no upgrade to another protocol",
        "Operations with `x-atoll-upgrade` in GET /openapi.json take WebSockets",
        when=_is("upgrade_failed"),
    ),
    Problem(403, "forbidden", "Forbidden", "This is not allowed here"),
    Problem(404, "not_found", "Not Found", "No operation has this path", "GET /openapi.json lists all operations"),
    Problem(405, "method_not_allowed", "Method Not Allowed", _OWN_WORDS),
    Problem(408, "request_timeout", "Request Timeout", "The request did not arrive in time"),
    Problem(413, "too_large", "Content Too Large", "The body is larger than this gateway takes"),
    Problem(426, "upgrade_required", "Upgrade Required", "HTTP/1.1 or newer is needed"),
    Problem(429, "too_many_requests", "Too Many Requests", "Too many requests: try again later"),
    Problem(431, "headers_too_large", "Request Header Fields Too Large", "The headers are too many or too large"),
    Problem(500, "internal", "Internal Server Error", "Something went wrong in the gateway"),
    Problem(501, "not_implemented", "Not Implemented", "This transfer encoding or upgrade is not supported"),
    Problem(502, "bad_gateway", "Bad Gateway", "The service's answer was not valid HTTP", headers=_RETRY),
    # One too many for the service (its `concurrency`), or for the gateway itself.
    Problem(
        503,
        "overloaded",
        "Service Unavailable",
        "There is more to do at the moment than can be done: try again later",
        when='response.code_details.contains("overflow") || response.code_details == "overload"',
        headers=_RETRY,
    ),
    Problem(503, "outage", "Service Unavailable", "The service can't be reached at the moment", headers=_RETRY),
    Problem(504, "timeout", "Gateway Timeout", "The service did not answer in time"),
)
_ANY = Problem(400, "error", "Error", "The gateway could not answer this request")


def configuration() -> Json:
    """HttpConnectionManager.local_reply_config. The last mapper takes every error that is not in the table."""
    return {"mappers": [*(_mapper(problem, "EQ") for problem in PROBLEMS), _mapper(_ANY, "GE")]}


def _mapper(problem: Problem, comparison: str) -> Json:
    status = {"value": {"default_value": problem.status, "runtime_key": f"atoll.local_reply.{problem.status}"}}
    filter_: Json = {"status_code_filter": {"comparison": {"op": comparison, **status}}}
    if problem.when:
        filter_ = {"and_filter": {"filters": [filter_, {"extension_filter": _expression(problem.when)}]}}
    mapper: Json = {"filter": filter_, "body_format_override": _body(problem)}
    if problem.answer:
        mapper["status_code"] = problem.answer
    if problem.headers:
        mapper["headers_to_add"] = [header(name, value) for name, value in problem.headers]
    return mapper


def _expression(text: str) -> Json:
    return typed_extension(
        "envoy.access_loggers.extension_filters.cel",
        "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
        expression=text,
    )


def _body(problem: Problem) -> Json:
    fields: dict[str, Any] = {
        "type": f"/problems/{problem.code}",
        "title": problem.title,
        "status": "%RESPONSE_CODE%",
        "detail": problem.detail,
        "code": problem.code,
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    if problem.hint:
        fields["hint"] = problem.hint
    return {"content_type": "application/problem+json", "json_format": fields, "omit_empty_values": True}
