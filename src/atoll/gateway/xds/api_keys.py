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
    return typed_extension(
        NAME,
        "envoy.extensions.filters.http.lua.v3.Lua",
        default_source_code={"inline_string": _program(keys)},
        stat_prefix="api_keys",
    )


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
