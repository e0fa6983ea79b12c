"""Sessions that were ended: 401 for their tokens, though these are good and have not expired.

A file of its own (ECDS), because every change of the token filter's file empties its cache of verified tokens, and sessions end
all the time. The list is a hash map that is asked once a request: ten thousand sessions cost what one costs.
"""

from __future__ import annotations

from collections.abc import Sequence

from atoll.gateway.xds import jwt
from atoll.gateway.xds.typed import Json, type_url, typed, typed_extension

__all__ = ["NAME", "POLICY", "filter_", "resource"]

NAME = "atoll.revocations"
POLICY = "session_ended"
"""What the response's details name, so that `local_reply` can tell this refusal from a missing scope."""
_TYPE = "envoy.extensions.filters.http.rbac.v3.RBAC"


def filter_(source: Json) -> Json:
    return {"name": NAME, "config_discovery": {"config_source": source, "type_urls": [type_url(_TYPE)]}}


def resource(sessions: Sequence[str]) -> Json:
    """The ECDS resource. Without any ended session the filter has no rules and lets everything pass."""
    configuration = typed(_TYPE, matcher=_matcher(sessions)) if sessions else typed(_TYPE)
    return typed("envoy.config.core.v3.TypedExtensionConfig", name=NAME, typed_config=configuration)


def _matcher(sessions: Sequence[str]) -> Json:
    """By a header that the token filter has set from the verified token (a client's own is stripped): RBAC's inputs give the
    metadata as a whole only, which no hash map takes.
    """
    header = typed_extension(
        "envoy.matching.inputs.request_headers",
        "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
        header_name=jwt.SESSION_HEADER,
    )
    ended = _action(POLICY, "DENY")
    return {
        "matcher_tree": {"input": header, "exact_match_map": {"map": dict.fromkeys(sessions, ended)}},
        "on_no_match": _action("others", "ALLOW"),
    }


def _action(name: str, action: str) -> Json:
    return {"action": typed_extension("envoy.filters.rbac.action", "envoy.config.rbac.v3.Action", name=name, action=action)}
