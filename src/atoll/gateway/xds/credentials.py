"""One credential for each request, in the form that services read it: what both check is the same token.

Envoy's token filter looks for a token anywhere in a header, and in several headers at once: it then verifies all of them and
adds the claims of each, so nobody could say whose request it is. This filter refuses such requests before.
"""

from __future__ import annotations

from atoll.gateway.xds.typed import Json, typed, typed_extension

__all__ = ["NAME", "NOT_BEARER", "TWO", "filter_", "nothing"]

NAME = "atoll.credentials"
TWO, NOT_BEARER = "two_credentials", "not_bearer"
"""What the response's details name, so that `local_reply` can tell these refusals from others."""
_AUTHORIZATION, _PROTOCOLS = "authorization", "sec-websocket-protocol"
# RFC 6750 §2.1, with a scheme in any case (RFC 9110 §11.1).
_BEARER = r"(?i:bearer) +[A-Za-z0-9._~+/-]+=*"
# More than one, or one that is not the beginning of a protocol.
_DOUBTFUL = r".*bearer\..*bearer\..*|.*[^ \t,]bearer\..*"
_ANYTHING, _OFFERED = r"(?s:.*)", r".*bearer\..*"


def filter_() -> Json:
    """A matcher and no rules: it sees two headers of one name as one with a comma, where rules see each alone."""
    other = _all(_header(_AUTHORIZATION, _ANYTHING), {"not_matcher": _header(_AUTHORIZATION, _BEARER)})
    both = _all(_header(_AUTHORIZATION, _ANYTHING), _header(_PROTOCOLS, _OFFERED))
    refused = [_refusal(other, NOT_BEARER), _refusal(both, TWO), _refusal(_header(_PROTOCOLS, _DOUBTFUL), TWO)]
    matcher = {"matcher_list": {"matchers": refused}, "on_no_match": _action("others", "ALLOW")}
    return typed_extension(NAME, "envoy.extensions.filters.http.rbac.v3.RBAC", matcher=matcher)


def nothing() -> Json:
    """On a route that needs no token: whatever is sent there is its own matter."""
    return typed("envoy.extensions.filters.http.rbac.v3.RBACPerRoute")


def _refusal(predicate: Json, name: str) -> Json:
    return {"predicate": predicate, "on_match": _action(name, "DENY")}


def _action(name: str, action: str) -> Json:
    return {"action": typed_extension("envoy.filters.rbac.action", "envoy.config.rbac.v3.Action", name=name, action=action)}


def _all(*predicates: Json) -> Json:
    return {"and_matcher": {"predicate": list(predicates)}}


def _header(name: str, regex: str) -> Json:
    """There is such a header, and all of it matches."""
    header = typed_extension(
        "envoy.matching.inputs.request_headers", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=name
    )
    return {"single_predicate": {"input": header, "value_match": {"safe_regex": {"regex": regex, "google_re2": {}}}}}
