"""What every answer over TLS says of the connection itself: come by HTTPS only (RFC 6797), HTTP/3 is here (RFC 9114 §3.1.1)."""

from __future__ import annotations

from urllib.parse import urlsplit

from atoll.gateway.ir import Gateway
from atoll.gateway.xds.typed import Json, header, typed_extension

__all__ = ["filters"]

_ALT_SVC_S = 86_400


def filters(gateway: Gateway) -> list[Json]:
    """One filter, or none where there is nothing to say."""
    tls = gateway.listener.tls
    if tls is None or not (tls.hsts_s or tls.http3):
        return []
    headers = []
    if tls.hsts_s:
        headers.append(header("strict-transport-security", f"max-age={tls.hsts_s}"))
    if tls.http3:
        headers.append(header("alt-svc", f'h3=":{_port(gateway)}"; ma={_ALT_SVC_S}'))
    return [
        typed_extension(
            "envoy.filters.http.header_mutation",
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            mutations={"response_mutations": [{"append": one} for one in headers]},
        )
    ]


def _port(gateway: Gateway) -> int:
    """As clients see it: whatever forwards 443 to the gateway forwards UDP along with TCP."""
    return urlsplit(gateway.public_url).port or (443 if gateway.public_url else gateway.listener.port)
