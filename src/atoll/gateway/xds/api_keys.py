"""API keys: a request that brings one is given a token before the token check, which then knows tokens only.

In Lua, because Envoy's own filters can either ask auth at every request or hold a list of keys: neither a cache with an end
nor a key that is deleted within a second. `api_keys.lua` is the program.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from atoll.gateway.ir import ApiKeys
from atoll.gateway.xds.typed import Json, typed, typed_extension

__all__ = ["NAME", "filter_", "nothing"]

NAME = "envoy.filters.http.lua"


def filter_(keys: ApiKeys) -> Json:
    program = typed_extension(
        NAME,
        "envoy.extensions.filters.http.lua.v3.Lua",
        default_source_code={"inline_string": _program(keys)},
        stat_prefix="api_keys",
    )
    # Entering Lua costs more than all else that happens to a request, so one without a key doesn't.
    return typed_extension(
        NAME,
        "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        extension_config=program,
        xds_matcher={"matcher_list": {"matchers": [{"predicate": _without(keys.header), "on_match": _SKIP}]}},
    )


_SKIP: Json = {"action": typed_extension("skip", "envoy.extensions.filters.common.matcher.action.v3.SkipFilter")}


def _without(header: str) -> Json:
    value = typed_extension(
        "envoy.matching.inputs.request_headers", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=header
    )
    any_value = {"safe_regex": {"google_re2": {}, "regex": ".*"}}
    return {"not_matcher": {"single_predicate": {"input": value, "value_match": any_value}}}


def nothing() -> Json:
    """On a route that needs no token: what is sent there as X-API-Key is that program's own matter."""
    return typed("envoy.extensions.filters.http.lua.v3.LuaPerRoute", disabled=True)


def _program(keys: ApiKeys) -> str:
    text = _template()
    for name, value in (("@HEADER@", keys.header), ("@CLUSTER@", keys.cluster), ("@PATH@", keys.path)):
        text = text.replace(name, value)
    return text


@cache
def _template() -> str:
    return Path(__file__).with_suffix(".lua").read_text("utf-8")
