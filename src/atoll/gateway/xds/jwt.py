"""Token verification. The filter's configuration is a file of its own (ECDS): a new key counts within milliseconds, a
withdrawn one is refused at once even from the token cache, and neither listener nor connections are touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from atoll.gateway.ir import Issuer, TokenRule
from atoll.gateway.xds.typed import Json, type_url, typed
from atoll.tokens.providers import Provider

__all__ = ["METADATA_KEY", "NAME", "SESSION_HEADER", "filter_", "per_route", "resource"]

NAME = "envoy.filters.http.jwt_authn"
METADATA_KEY = "jwt"
SESSION_HEADER = "x-atoll-session"
_TYPE = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_REQUIRED, _SOCKET, _STICKY = "required", "socket", "sticky"
# Where a token may stand, and nowhere else: one in ?access_token=, Envoy's default too, would stand in every log on the way.
# That the word before the space is Bearer, in whatever case, and that there is one token only, `credentials` has seen to.
_BEARER: Json = {"name": "Authorization", "value_prefix": " "}
# One of several protocols that a page offers: `new WebSocket(url, ["chat.v1", "bearer." + token])`.
_PROTOCOL: Json = {"name": "Sec-WebSocket-Protocol", "value_prefix": "bearer."}


def filter_(source: Json) -> Json:
    return {"name": NAME, "config_discovery": {"config_source": source, "type_urls": [type_url(_TYPE)]}}


def resource(issuer: Issuer, providers: Sequence[Provider] = ()) -> Json:
    """The ECDS resource. A token is measured against the issuer that it names."""
    kinds: dict[str, Json] = {
        _REQUIRED: {"from_headers": [_BEARER]},
        _SOCKET: {"from_headers": [_BEARER, _PROTOCOL]},
        # Which version answers may depend on who asks, so the route is looked up again once that is known.
        _STICKY: {"from_headers": [_BEARER], "clear_route_cache": True},
    }
    named = {kind: _named(issuer, providers, kind, own) for kind, own in kinds.items()}
    configuration = typed(
        _TYPE,
        providers={name: one for some in named.values() for name, one in some.items()},
        requirement_map={kind: _any_of([{"provider_name": name} for name in some]) for kind, some in named.items()},
    )
    return typed("envoy.config.core.v3.TypedExtensionConfig", name=NAME, typed_config=configuration)


def _named(issuer: Issuer, providers: Sequence[Provider], kind: str, own: Json) -> dict[str, Json]:
    """Whoever may have issued a token; `own` is what is peculiar to this kind of route."""
    foreign = {f"provider {one.name} {kind}": {**_provider(one), **own} for one in providers}
    return {f"atoll {kind}": {**_issuer(issuer), **own}, **foreign}


def _any_of(requirements: list[Json]) -> Json:
    return {"requires_any": {"requirements": requirements}} if len(requirements) > 1 else requirements[0]


def per_route(rule: TokenRule, *, websocket: bool = False, sticky: bool = False) -> Json:
    """Every route has one: without it, a route is public."""
    name = "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig"
    if not rule.required:
        return typed(name, disabled=True)
    return typed(name, requirement_name=_SOCKET if websocket else _STICKY if sticky else _REQUIRED)


def _issuer(issuer: Issuer) -> dict[str, Any]:
    return {
        **_common(issuer.url, issuer.audience, issuer.keys.keys),
        "payload_in_metadata": METADATA_KEY,
        "normalize_payload_in_metadata": {"space_delimited_claims": ["scope"]},
        "claim_to_headers": [
            {"header_name": "x-atoll-subject", "claim_name": "sub"},
            {"header_name": "x-atoll-scope", "claim_name": "scope"},
            {"header_name": SESSION_HEADER, "claim_name": "sid"},
        ],
        "jwt_cache_config": _CACHE,
    }


def _provider(provider: Provider) -> dict[str, Any]:
    """Its `sub` goes into a header of its own: in `x-atoll-subject` it could be one of our users' ids."""
    return {
        **_common(provider.issuer, provider.audience, provider.never_empty),
        "payload_in_metadata": METADATA_KEY,
        "normalize_payload_in_metadata": {"space_delimited_claims": [provider.scope_claim]},
        "claim_to_headers": [
            {"header_name": "x-atoll-foreign-subject", "claim_name": "sub"},
            {"header_name": "x-atoll-foreign-issuer", "claim_name": "iss"},
        ],
        "jwt_cache_config": _CACHE,
    }


# Saves 60 µs a request. Per worker thread; emptied by every change of keys.
_CACHE: Json = {"jwt_cache_size": 4096, "jwt_max_token_size": 4096}


def _common(issuer: str, audience: str, keys: Sequence[Any]) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "audiences": [audience],
        "require_expiration": True,
        # 0 would mean 60 s. With 1, a token is taken until two seconds after its end; services are exact.
        "clock_skew_seconds": 1,
        "local_jwks": {"inline_string": msgspec.json.encode({"keys": keys}, order="deterministic").decode()},
        # The service verifies the token again, so it must arrive.
        "forward": True,
    }
