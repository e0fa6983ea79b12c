"""Scopes: 403 unless the verified token's list of scopes holds the one that the route asks for."""

from __future__ import annotations

from atoll.gateway.xds import jwt
from atoll.gateway.xds.typed import Json, typed, typed_extension

__all__ = ["NAME", "filter_", "per_route"]

NAME = "envoy.filters.http.rbac"


def filter_() -> Json:
    """Without rules of its own it lets everything pass; routes bring theirs."""
    return typed_extension(NAME, "envoy.extensions.filters.http.rbac.v3.RBAC")


def per_route(scope: str) -> Json:
    # A list match, so that `orders:writer` is not taken for `orders:write`. `metadata` instead of `sourced_metadata`
    # is deprecated.
    matcher = {
        "filter": jwt.NAME,
        "path": [{"key": jwt.METADATA_KEY}, {"key": "scope"}],
        "value": {"list_match": {"one_of": {"string_match": {"exact": scope}}}},
    }
    policy = {"permissions": [{"any": True}], "principals": [{"sourced_metadata": {"metadata_matcher": matcher}}]}
    rules = {"action": "ALLOW", "policies": {"scope": policy}}
    return typed("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", rbac={"rules": rules})
