"""Scopes: 403 unless the verified token's list of scopes holds the one that the route asks for."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.gateway.xds import jwt
from atoll.gateway.xds.typed import Json, typed, typed_extension
from atoll.tokens.providers import Provider

__all__ = ["NAME", "filter_", "per_route"]

NAME = "envoy.filters.http.rbac"


def filter_() -> Json:
    """Without rules of its own it lets everything pass; routes bring theirs."""
    return typed_extension(NAME, "envoy.extensions.filters.http.rbac.v3.RBAC")


def per_route(scope: str, issuer: str, providers: Sequence[Provider] = ()) -> Json:
    """One of the words that are worth the scope must be in the token, and be a word of the token's issuer; `issuer` is ours.

    Without that, whoever writes another issuer's tokens could write scopes of ours into them. Also while there is no other
    issuer: the token filter hears of the first one before the routes do.
    """
    own = _has([jwt.METADATA_KEY, "scope"], _listed(scope))
    principals = [_both(_from(issuer), own)]
    for one in providers:
        path = [jwt.METADATA_KEY, *one.scope_claim.split(".")]
        principals += [_both(_from(one.issuer), _has(path, _listed(word))) for word in one.words_for(scope)]
    policy = {"permissions": [{"any": True}], "principals": principals}
    rules = {"action": "ALLOW", "policies": {"scope": policy}}
    return typed("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", rbac={"rules": rules})


def _both(one: Json, other: Json) -> Json:
    return {"and_ids": {"ids": [one, other]}}


def _from(issuer: str) -> Json:
    return _has([jwt.METADATA_KEY, "iss"], {"string_match": {"exact": issuer}})


def _listed(word: str) -> Json:
    """A list match, so that `orders:writer` is not taken for `orders:write`."""
    return {"list_match": {"one_of": {"string_match": {"exact": word}}}}


def _has(path: Sequence[str], value: Json) -> Json:
    """`metadata` instead of `sourced_metadata` is deprecated."""
    matcher = {"filter": jwt.NAME, "path": [{"key": step} for step in path], "value": value}
    return {"sourced_metadata": {"metadata_matcher": matcher}}
