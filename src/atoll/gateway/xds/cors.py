"""Which pages of other origins may read answers.

Envoy's filter sees to the answers of services and to errors on the way to them; it takes no notice of what a route answers
itself. So preflights (Fetch §4.8) are routes with the headers written out: nobody asks them for a token, which a browser
never sends with one, and none reaches a service.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from atoll.gateway.ir import Cors
from atoll.gateway.xds.typed import Json, header, typed, typed_extension

__all__ = ["NAME", "VARY", "filter_", "from_allowed", "off", "policy", "preflight"]

NAME = "envoy.filters.http.cors"
_POLICY = "envoy.extensions.filters.http.cors.v3.CorsPolicy"
# An answer that names an origin is no other origin's, for any cache on the way.
VARY: Json = {"header": {"key": "vary", "value": "origin"}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}


def filter_() -> Json:
    """Without a policy it does nothing: the virtual host has it."""
    return typed_extension(NAME, "envoy.extensions.filters.http.cors.v3.Cors")


def policy(cors: Cors) -> Json:
    return typed(
        _POLICY,
        allow_origin_string_match=[{"safe_regex": {"regex": _origins(cors)}}],
        expose_headers=", ".join(cors.exposed),
        allow_credentials=cors.credentials,
        # By default the preflight of an origin that is not allowed would be sent to the service.
        forward_not_matching_preflights=False,
    )


def off() -> Json:
    """For who answers preflights itself."""
    never = {"default_value": {"numerator": 0, "denominator": "HUNDRED"}, "runtime_key": "atoll.cors.off"}
    return typed(_POLICY, filter_enabled=never)


def from_allowed(cors: Cors) -> Json:
    """A condition on the request."""
    return {"name": "origin", "string_match": {"safe_regex": {"regex": _origins(cors)}}}


def preflight(cors: Cors, methods: Sequence[str]) -> list[Json]:
    """The headers of its answer."""
    return [
        header("access-control-allow-origin", "%REQ(ORIGIN)%"),
        *([header("access-control-allow-credentials", "true")] if cors.credentials else []),
        header("access-control-allow-methods", ", ".join(methods)),
        header("access-control-allow-headers", ", ".join(cors.headers)),
        header("access-control-max-age", str(cors.max_age_s)),
    ]


def _origins(cors: Cors) -> str:
    return "|".join(_origin(one) for one in cors.origins)


def _origin(pattern: str) -> str:
    """`https://*.shop.example` is every name below shop.example, at that scheme and port, and not shop.example itself."""
    return ".*" if pattern == "*" else "[A-Za-z0-9.-]+".join(re.escape(part) for part in pattern.split("*"))
