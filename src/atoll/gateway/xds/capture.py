"""Capturing a request and its answer for a comparison, without touching either: a Lua filter that is off except on the routes
whose requests are sampled. It keeps copies of what passes and hands them to the comparing process when the answer is complete,
in a call that nobody waits for. What is dead, slow or full there costs a sample and nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path as File

from atoll.gateway.ir import Endpoint, Sample
from atoll.gateway.xds.typed import Json, seconds, typed, typed_extension

__all__ = ["CLUSTER", "NAME", "cluster", "conditions", "filter_", "per_route", "share"]

NAME = "atoll.mirror"
# No service can be called that.
CLUSTER = "atoll.mirror"
_SCRIPT = File(__file__).with_name("capture.lua").read_text("utf-8")
_CONNECT_S = 0.5
# Each holds one captured request and answer, so they bound what Envoy keeps for a process that is slow.
_AT_ONCE = 64
_MILLION = 1_000_000


def filter_() -> Json:
    filter_ = typed_extension(
        NAME,
        "envoy.extensions.filters.http.lua.v3.Lua",
        default_source_code={"inline_string": _SCRIPT},
        stat_prefix="mirror",
    )
    return {**filter_, "disabled": True}


def per_route(sample: Sample) -> Json:
    """Turns it on."""
    return typed("envoy.extensions.filters.http.lua.v3.LuaPerRoute", filter_context={"mirror": sample.mirror})


def share(sample: Sample) -> Json:
    """Decided once a request: Envoy's own random number for the stream, compared with this."""
    return {"default_value": {"numerator": round(sample.share * _MILLION), "denominator": "MILLION"}}


def conditions(sample: Sample) -> list[Json]:
    """A request's path, where not all of the route's are compared. The header has the query too."""
    paths = [rf"{re.escape(prefix)}(?:/[^?]*)?" for prefix in sample.prefixes]
    paths += [template.regex for template in sample.templates]
    if not paths:
        return []
    return [{"name": ":path", "string_match": {"safe_regex": {"regex": rf"(?:{'|'.join(paths)})(?:\?.*)?"}}}]


def cluster(comparer: Endpoint) -> Json:
    address = {"socket_address": {"address": comparer.host, "port_value": comparer.port}}
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=CLUSTER,
        type="STATIC",
        connect_timeout=seconds(_CONNECT_S),
        load_assignment={"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
        circuit_breakers={"thresholds": [{"max_connections": 4, "max_pending_requests": _AT_ONCE, "max_requests": _AT_ONCE}]},
    )
