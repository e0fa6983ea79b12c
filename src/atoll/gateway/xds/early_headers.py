"""Strips what a client may not say, before routing, filters and the access log can see it."""

from __future__ import annotations

from atoll.gateway.ir import Proxies
from atoll.gateway.xds.typed import Json, typed_extension

__all__ = ["extension"]

# `x-atoll-` are the verified claims; with `x-envoy-` a client could set timeouts and retries.
_PREFIXES = ("x-atoll-", "x-envoy-")
# Spoofing helpers that services behind proxies are known to trust. Envoy sets x-forwarded-for and -proto afterwards; it would
# append the address that it sees to what stands there, and a service that takes the first of several would believe the client.
_TOLD = "x-forwarded-for"  # by a proxy that is trusted; a service gets what becomes of it
_NAMES = ("forwarded", _TOLD, "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "x-real-ip")


# What Envoy sets anew only where the client is whoever connects.
_ELSE_KEPT = ("x-request-id", "x-forwarded-proto")


def extension(proxies: Proxies, own_mutations: list[Json]) -> Json:
    """`own_mutations` come after what is stripped."""
    names = (*(name for name in _NAMES if name != _TOLD), *_ELSE_KEPT) if proxies.tell_by_header else _NAMES
    mutations: list[Json] = [{"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in _PREFIXES]
    mutations += [{"remove": name} for name in names]
    return typed_extension(
        "envoy.http.early_header_mutation.header_mutation",
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[*mutations, *own_mutations],
    )
