"""`RateLimit-Limit`, `-Remaining` and `-Reset` (draft-ietf-httpapi-ratelimit-headers-03) and the right `Retry-After`.

The rate limit filters count in the thousandths that a request takes of a bucket; here that becomes requests and seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from atoll.gateway.xds.rate_limit import Bucket
from atoll.gateway.xds.typed import Json, header, typed, typed_extension

__all__ = ["NAME", "REPLACED", "filter_", "per_route"]

NAME = "atoll.rate_limit_headers"
_KINDS = ("limit", "remaining", "reset")
# What a service says of limits of its own, where the gateway has one: a client is told of one limit, not of half of each.
REPLACED = tuple(f"{prefix}ratelimit-{kind}" for prefix in ("", "x-") for kind in _KINDS)
_MUTATION = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
_LEFT = "int(response.headers['x-ratelimit-remaining'])"
_SIZE = "response.headers['x-ratelimit-limit']"
_REFUSED = "response.code_details == 'local_rate_limited'"


def filter_() -> Json:
    """Off unless a route turns it on."""
    return {**typed_extension(NAME, _MUTATION), "disabled": True}


def per_route(buckets: Sequence[Bucket]) -> Json:
    """For a route with these limits: the one that has less left is told of. Nothing is where no bucket was asked, as on a 401:
    an expression that finds no header gives none.
    """
    cost = _chosen({bucket.size: bucket.cost for bucket in buckets})
    a_second = _chosen({bucket.size: bucket.size // bucket.rate.window_s for bucket in buckets})
    limit = _chosen({bucket.size: bucket.rate.count for bucket in buckets})
    wait_s = f"({cost} - {_LEFT} + {a_second} - 1) / {a_second}"
    mutations = [
        _set("ratelimit-limit", limit if len(buckets) > 1 else f"{_SIZE} != '' ? {limit} : 0"),
        _set("ratelimit-remaining", f"{_LEFT} / {cost}"),
        _set("ratelimit-reset", f"(int({_SIZE}) - {_LEFT} + {a_second} - 1) / {a_second}"),
        # Only where it is there already: on our own 429 (Envoy's is 1, whatever the rate) and on answers of a service.
        _set("retry-after", f"{_REFUSED} ? {wait_s} : response.headers['retry-after']", "OVERWRITE_IF_EXISTS"),
        *({"remove": f"x-ratelimit-{name}"} for name in _KINDS),
    ]
    return typed(f"{_MUTATION}PerRoute", mutations={"response_mutations": mutations})


def _chosen(values: dict[int, int]) -> str:
    """The value that goes with the bucket that Envoy names by its size."""
    if len(values) == 1:
        return str(*values.values())
    cases = ", ".join(f"'{size}': {value}" for size, value in values.items())
    return f"{{{cases}}}[{_SIZE}]"


def _set(name: str, expression: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> Json:
    return {"append": header(name, f"%CEL({expression})%") | {"append_action": action}}
