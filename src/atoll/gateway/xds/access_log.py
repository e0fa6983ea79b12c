"""One JSON line a request. Never a query string (they hold tokens and names) and never a header that holds a secret."""

from __future__ import annotations

from atoll.gateway.xds import credentials, module, revocations
from atoll.gateway.xds.typed import Json, typed_extension

__all__ = ["FIELDS", "REASONS", "loggers"]

_SCOPE = "xds.route_metadata.filter_metadata['atoll']['scope']"

_MORE = "'more than the ' + response.headers['ratelimit-limit'] + ' requests that its rate limit allows'"
_KEY = (
    "response.code == 503 ? 'auth did not answer or is asked too much, and the API key has no token yet'"
    " : response.code == 429 ? 'more unknown API keys than one address may try'"
    " : response.code == 400 ? 'an API key and a token at once' : 'the API key is not known'"
)
_OWN_ANSWER = (
    "response.code == 405 ? 'this path takes other methods'"
    " : response.code == 400 ? 'the Host header is not one host' : 'no operation has this path'"
)
_FLOOD = "'more requests than one address may make'"

# What Envoy's details begin with, and what it means, as CEL: the first that fits counts. Details of the list at
# https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details
REASONS = (
    ("via_upstream", "'the service answered so'"),
    (
        "jwt_authn",
        "'token: ' + response.code_details.replace('jwt_authn_access_denied{', '').replace('_', ' ').replace('}', '')",
    ),
    (f"rbac_access_denied_matched_policy[{revocations.POLICY}]", "'the session of the token was ended'"),
    (credentials.TWO, "'more than one credential'"),
    (credentials.NOT_BEARER, "'Authorization is not a bearer token'"),
    ("rbac_", f"'the token lacks the scope ' + {_SCOPE}"),
    ("upgrade_failed", "'the operation takes no upgrade to another protocol'"),
    ("route_not_found", "'no operation has this path'"),
    ("direct_response", _OWN_ANSWER),
    ("no_healthy_upstream", "'no healthy replica'"),
    ("cluster_not_found", "'no healthy replica'"),
    ("response_timeout", "'the replica did not answer in time'"),
    ("upstream_per_try_timeout", "'the replica did not answer in time'"),
    ("upstream_reset_before_response_started{overflow", "'the service has as many requests in hand as it takes'"),
    ("overload", "'the gateway is short of memory or CPU'"),
    ("upstream_reset_before_response_started", "'the connection to the replica failed'"),
    ("upstream_reset_after_response_started", "'the replica broke its answer off'"),
    ("stream_idle_timeout", "'the request or its answer stood still'"),
    ("request_header_timeout", "'the headers did not arrive in time'"),
    ("request_payload", "'the body is larger than the gateway takes'"),
    ("downstream_", "'the client went away'"),
    ("http1.codec_error", "'the bytes are not an HTTP/1.1 request'"),
    ("http1.", "'the request is refused: ' + response.code_details.replace('http1.', '').replace('_', ' ')"),
    ("lua_response", _KEY),
    ("local_rate_limited", f"'ratelimit-limit' in response.headers ? {_MORE} : {_FLOOD}"),
)

FIELDS = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%E3SZ)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    # The client's trace, or else the one that services name by the request id without its dashes (`trace_id.c`).
    "trace_id": "%LOGGED_TRACE%",
    # As it came, or as the tracer made it; null when neither did.
    "traceparent": "%REQ(TRACEPARENT)%",
    "subject": "%REQ(X-ATOLL-SUBJECT)%",
    # Of another issuer's token. Apart from ours, which it may be called like; with the issuer's address, since the name that
    # the manifest has for it would be a new listener for each change of providers.
    "foreign_subject": "%REQ(X-ATOLL-FOREIGN-SUBJECT)%",
    "foreign_issuer": "%REQ(X-ATOLL-FOREIGN-ISSUER)%",
    "operation": "%ROUTE_NAME%",
    "service": "%UPSTREAM_CLUSTER%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "status": "%RESPONSE_CODE%",
    "duration_ms": "%DURATION%",
    "upstream_ms": "%RESPONSE_DURATION%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "replica": "%UPSTREAM_HOST%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    # As the client was told; null where nothing is limited.
    "ratelimit_limit": "%RESP(RATELIMIT-LIMIT)%",
    "ratelimit_remaining": "%RESP(RATELIMIT-REMAINING)%",
    "ratelimit_reset_s": "%RESP(RATELIMIT-RESET)%",
    # Envoy's own words for what went wrong: https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
}


def loggers(path: str, *, traced: bool) -> list[Json]:
    """One line a request, from one of two loggers of one file: finding words for a failure costs 10 µs, and most go well.

    `traced`: there is a tracer, which knows the trace of every request.
    """
    fields = {**FIELDS, **({"trace_id": "%TRACE_ID%"} if traced else {})}
    return [
        _logger(path, {**fields, "why": ""}, {"and_filter": {"filters": [_status("LE", 399), _status("NE", 0)]}}),
        # 0 is no answer at all: the client went away.
        _logger(
            path, {**fields, "why": f"%CEL({_why()})%"}, {"or_filter": {"filters": [_status("GE", 400), _status("EQ", 0)]}}
        ),
    ]


def _logger(path: str, fields: Json, which: Json) -> Json:
    file = typed_extension(
        "envoy.access_loggers.file",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        path=path,
        log_format={"json_format": fields, "formatters": [_cel(), module.log_word("trace_id")]},
    )
    return {**file, "filter": which}


def _status(comparison: str, code: int) -> Json:
    value = {"default_value": code, "runtime_key": f"atoll.access_log.{comparison}"}
    return {"status_code_filter": {"comparison": {"op": comparison, "value": value}}}


def _why() -> str:
    """In a person's words; Envoy's own words when nothing better is known."""
    fits = [f"response.code_details.startsWith('{details}') ? ({reason}) : " for details, reason in REASONS]
    return f"{''.join(fits)}response.code_details"


def _cel() -> Json:
    return typed_extension(
        "envoy.formatter.cel",
        "envoy.extensions.formatter.cel.v3.Cel",
        cel_config={"enable_string_functions": True, "enable_string_concat": True},
    )
