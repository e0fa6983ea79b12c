"""Token verification. The filter's configuration is a file of its own (ECDS): a new key counts within milliseconds, a
withdrawn one is refused at once even from the token cache, and neither listener nor connections are touched.
"""

from __future__ import annotations

from typing import Any

import msgspec

from atoll.gateway.ir import Issuer, TokenRule
from atoll.gateway.xds.typed import Json, type_url, typed

__all__ = ["METADATA_KEY", "NAME", "SESSION_HEADER", "filter_", "per_route", "resource"]

NAME = "envoy.filters.http.jwt_authn"
METADATA_KEY = "jwt"
SESSION_HEADER = "x-atoll-session"
_TYPE = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_REQUIRED, _SOCKET = "required", "socket"
_BEARER: Json = {"name": "Authorization", "value_prefix": "Bearer "}
# One of several protocols that a page offers: `new WebSocket(url, ["chat.v1", "bearer." + token])`.
_PROTOCOL: Json = {"name": "Sec-WebSocket-Protocol", "value_prefix": "bearer."}


def filter_(source: Json) -> Json:
    return {"name": NAME, "config_discovery": {"config_source": source, "type_urls": [type_url(_TYPE)]}}


def resource(issuer: Issuer) -> Json:
    """The ECDS resource."""
    configuration = typed(
        _TYPE,
        providers={"atoll": _provider(issuer, [_BEARER]), "atoll-socket": _provider(issuer, [_BEARER, _PROTOCOL])},
        requirement_map={_REQUIRED: {"provider_name": "atoll"}, _SOCKET: {"provider_name": "atoll-socket"}},
    )
    return typed("envoy.config.core.v3.TypedExtensionConfig", name=NAME, typed_config=configuration)


def per_route(rule: TokenRule, *, websocket: bool = False) -> Json:
    """Every route has one: without it, a route is public."""
    name = "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig"
    if not rule.required:
        return typed(name, disabled=True)
    return typed(name, requirement_name=_SOCKET if websocket else _REQUIRED)


def _provider(issuer: Issuer, places: list[Json]) -> dict[str, Any]:
    return {
        "issuer": issuer.url,
        "audiences": [issuer.audience],
        "require_expiration": True,
        # 0 would mean 60 s. With 1, a token is taken until two seconds after its end; services are exact.
        "clock_skew_seconds": 1,
        "local_jwks": {"inline_string": _jwks(issuer)},
        # By default a token in ?access_token= is taken too: it would stand in every log on the way.
        "from_headers": places,
        # The service verifies the token again, so it must arrive.
        "forward": True,
        "payload_in_metadata": METADATA_KEY,
        "normalize_payload_in_metadata": {"space_delimited_claims": ["scope"]},
        "claim_to_headers": [
            {"header_name": "x-atoll-subject", "claim_name": "sub"},
            {"header_name": "x-atoll-scope", "claim_name": "scope"},
            {"header_name": SESSION_HEADER, "claim_name": "sid"},
        ],
        # Saves 60 µs a request. Per worker thread; emptied by every change of keys.
        "jwt_cache_config": {"jwt_cache_size": 4096, "jwt_max_token_size": 4096},
    }


def _jwks(issuer: Issuer) -> str:
    return msgspec.json.encode({"keys": issuer.keys.keys}, order="deterministic").decode()
