"""Token buckets: one per client and operation, one per client over all operations, one per address over everything.

The filters' configuration never changes, and that is the point: Envoy forgets the buckets of a filter whose configuration
(or listener) it gets anew, but not when a route changes. So every bucket has the same size for every rate, and what a rate
decides is how much of it one request takes; that, and whose bucket it is, stands in the route's metadata. A change of
routes, rates, keys or replicas keeps every client where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atoll.gateway.ir import Limits, Route
from atoll.gateway.xds import jwt
from atoll.gateway.xds.typed import Json, typed, typed_extension
from atoll.system.rates import WINDOWS_S, Rate

__all__ = ["NAMESPACE", "Bucket", "by_address", "by_subject", "metadata", "per_route", "shown"]

# Where a route's metadata has what the filters look for.
NAMESPACE = "atoll.rate"
_ADDRESS, _SUBJECT = "address", "subject"
_OPERATION, _CLIENT, _FLOOD = "operation", "client", "flood"
_BY = {_ADDRESS: "atoll.rate_limit.by_address", _SUBJECT: "atoll.rate_limit.by_subject"}
# A bucket holds this much. Envoy takes at most 10^9 at once, so it is what the smallest rate, 1, costs; the rate N costs the
# Nth part, rounded down, which is exact for every N that may be declared. Different sizes tell the two that a client is told
# of apart: Envoy names the size of the bucket that was emptier.
_SIZE = {_OPERATION: 1_000_000_000, _CLIENT: 999_999_999, _FLOOD: 1_000_000_000}
_ON = typed("envoy.config.route.v3.FilterConfig", config={})
# Buckets kept of each kind and window, each for one client (of one operation): 1.2 KB each, measured. Beyond them the one that
# was not used for longest is forgotten.
_BUCKETS = 20_000


def _claim(name: str) -> Json:
    """Tokens without it count as one in this."""
    path = [{"key": jwt.METADATA_KEY}, {"key": name}]
    return {"metadata": {"descriptor_key": name, "metadata_key": {"key": jwt.NAME, "path": path}, "default_value": "-"}}


# What a client is told by: names of Envoy's own for an address, of which somebody with IPv6 has a whole /64; and a subject with
# its issuer, since another issuer's subjects may be called like ours. Each API key of a subject counts apart: a program that
# runs wild leaves the others theirs.
_CLIENT_IS: Mapping[str, Mapping[str, Json]] = {
    _ADDRESS: {"masked_remote_address": {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}}},
    _SUBJECT: {name: _claim(name) for name in ("iss", "sub", "atoll_key")},
}


@dataclass(frozen=True, slots=True)
class Bucket:
    """One limit as a client sees it: `rate`, from a bucket of `size` that refills in a window; a request takes `cost`."""

    rate: Rate
    size: int
    cost: int


def by_address() -> Json:
    """Before the token is looked at: what is asked without one, and floods of whatever kind."""
    return _filter(_ADDRESS, (_OPERATION, _CLIENT, _FLOOD))


def by_subject() -> Json:
    """What is asked with a token, whatever address it comes from."""
    return _filter(_SUBJECT, (_OPERATION, _CLIENT))


def metadata(route: Route | None, limits: Limits) -> Json:
    """What the filters read of one route; `None` is an answer of the gateway's own. Empty without limits."""
    who = _SUBJECT if route and route.token.required else _ADDRESS
    found: dict[str, Json] = {_SUBJECT: {}, _ADDRESS: {}}
    if route and route.rate_limit:
        found[who][_OPERATION] = _entry(_OPERATION, route.rate_limit, limits) | {"name": route.name}
    if limits.client:
        found[who][_CLIENT] = _entry(_CLIENT, limits.client, limits)
    if limits.address:
        found[_ADDRESS][_FLOOD] = _entry(_FLOOD, limits.address, limits)
    return {key: entries for key, entries in found.items() if entries}


def per_route(route: Route | None, limits: Limits) -> Json:
    """Turns on the filters that have something to do; off, they cost nothing."""
    return {_BY[who]: _ON for who in metadata(route, limits)}


def shown(route: Route | None, limits: Limits) -> Sequence[Bucket]:
    """The limits that a client of this route is told of."""
    rates = {_OPERATION: route.rate_limit if route else None, _CLIENT: limits.client}
    return [Bucket(rate, _SIZE[kind], _cost(kind, rate, limits)) for kind, rate in rates.items() if rate]


def _entry(kind: str, rate: Rate, limits: Limits) -> Json:
    return {"window": _window(rate.window_s), "cost": _cost(kind, rate, limits)}


def _cost(kind: str, rate: Rate, limits: Limits) -> int:
    """Of several gateways each gives its share, and at least one request a window."""
    return min(_SIZE[kind], _SIZE[kind] * limits.gateways // rate.count)


def _window(window_s: int) -> str:
    return f"{window_s}s"


def _filter(who: str, kinds: Sequence[str]) -> Json:
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    configured = typed_extension(
        _BY[who],
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix=_BY[who].replace(".", "_"),
        filter_enabled=always,
        filter_enforced=always,
        rate_limits=[_chosen(who, kind) for kind in kinds],
        descriptors=[_bucket(who, kind, window_s) for kind in kinds for window_s in WINDOWS_S.values()],
        max_dynamic_descriptors=_BUCKETS,
        # For requests that no bucket is for. Envoy wants one: so large that it is never empty.
        token_bucket={"max_tokens": 4_000_000_000, "tokens_per_fill": 4_000_000_000, "fill_interval": "1s"},
        always_consume_default_token_bucket=False,
        # Which `rate_limit_headers` makes right.
        enable_retry_after_header=True,
        # What a gRPC client understands; others get 429.
        rate_limited_as_resource_exhausted=True,
    )
    return {**configured, "disabled": True}


def _chosen(who: str, kind: str) -> Json:
    """Which bucket and how much of it, as the route says; none when the route says nothing."""
    actions = [_of_route(who, kind, "window")]
    if kind == _OPERATION:
        actions.append(_of_route(who, kind, "name"))
    return {
        "actions": [*actions, *_CLIENT_IS[who].values()],
        "hits_addend": {"format": f"%METADATA(ROUTE:{NAMESPACE}:{who}:{kind}:cost)%"},
        # A flood is not told how much more it may send.
        "x_ratelimit_option": "OFF" if kind == _FLOOD else "DRAFT_VERSION_03",
    }


def _of_route(who: str, kind: str, what: str) -> Json:
    path = [{"key": key} for key in (who, kind, what)]
    return {
        "metadata": {
            "descriptor_key": f"{kind}.{what}",
            "source": "ROUTE_ENTRY",
            "metadata_key": {"key": NAMESPACE, "path": path},
        }
    }


def _bucket(who: str, kind: str, window_s: int) -> Json:
    """Entries without a value: one bucket for every operation and client."""
    entries = [{"key": f"{kind}.window", "value": _window(window_s)}]
    if kind == _OPERATION:
        entries.append({"key": f"{kind}.name"})
    entries += [{"key": key} for key in _CLIENT_IS[who]]
    size = _SIZE[kind]
    bucket = {"max_tokens": size, "tokens_per_fill": size, "fill_interval": _window(window_s)}
    return {"entries": entries, "token_bucket": bucket}
