"""`RateLimit-Limit`, `-Remaining` and `-Reset` (draft-ietf-httpapi-ratelimit-headers-03) and the right `Retry-After`.

The rate limit filters count in the thousandths that a request takes of a bucket; in a filter of our own (`rate_limit.c`) that
becomes requests and seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from atoll.gateway.xds import module
from atoll.gateway.xds.rate_limit import Bucket
from atoll.gateway.xds.typed import Json

__all__ = ["NAME", "REPLACED", "filter_", "per_route"]

NAME = "atoll.rate_limit_headers"
_KINDS = ("limit", "remaining", "reset")
# What a service says of limits of its own, where the gateway has one: a client is told of one limit, not of half of each.
REPLACED = tuple(f"{prefix}ratelimit-{kind}" for prefix in ("", "x-") for kind in _KINDS)


def filter_() -> Json:
    """Off unless a route turns it on."""
    return {**module.http_filter("rate_limit_headers"), "disabled": True}


def per_route(buckets: Sequence[Bucket]) -> Json:
    """For a route with these limits: the one that has less left is told of; nothing where no bucket was asked, as on a 401."""
    return module.per_route("rate_limit_headers", ",".join(map(_said, buckets)))


def _said(bucket: Bucket) -> str:
    """As `read_buckets` reads it. Envoy names the bucket that it tells of by its size."""
    return f"{bucket.size} {bucket.cost} {bucket.size // bucket.rate.window_s} {bucket.rate.count}"
