"""Parts of Envoy that are ours (`atoll.engines.envoy_module`), as its configuration names them."""

from __future__ import annotations

from atoll.gateway.xds.typed import Json, typed, typed_extension

__all__ = ["NAME", "http_filter", "log_word", "network_filter", "per_route"]

NAME = "atoll"
"""`atoll.engines.envoy_module` calls it so too; the controller runs no engine and does not import them."""

# Envoy looks for it by its name, in the one folder that it was started with. It stays loaded, so that what a request still
# uses can't go.
_MODULE: Json = {"name": NAME, "do_not_close": True}


def network_filter(name: str) -> Json:
    return _ours(name, "filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter", filter_name=name)


def http_filter(name: str) -> Json:
    return _ours(name, "filters.http.dynamic_modules.v3.DynamicModuleFilter", filter_name=name)


def per_route(name: str, setting: str) -> Json:
    """What the filter does on a route."""
    return typed(
        "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute",
        dynamic_module_config=_MODULE,
        per_route_config_name=name,
        filter_config=typed("google.protobuf.StringValue", value=setting),
    )


def log_word(name: str) -> Json:
    """A formatter of access logs: it knows one word."""
    return _ours(name, "formatter.dynamic_modules.v3.DynamicModuleFormatter", formatter_name=name)


def _ours(name: str, kind: str, **called: str) -> Json:
    return typed_extension(f"atoll.{name}", f"envoy.extensions.{kind}", dynamic_module_config=_MODULE, **called)
