"""Plain HTTP where TLS is spoken elsewhere: every request is told where to go, and none gets further.

The way leads to `public_url`, whatever host the client named: a redirect to a host of its own choosing would lend our name
to anybody.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from atoll.gateway.xds.typed import Json

__all__ = ["NAME", "routes"]

NAME = "atoll_redirect"
_HTTPS = 443


def routes(public_url: str) -> Json:
    """The route table: 308 keeps method and body (RFC 9110 §15.4.9), path and query stay."""
    return {
        "name": NAME,
        "virtual_hosts": [
            {
                "name": NAME,
                "domains": ["*"],
                "routes": [{"name": "redirect", "match": {"prefix": "/"}, "redirect": _target(urlsplit(public_url))}],
            }
        ],
    }


def _target(url: SplitResult) -> Json:
    target: Json = {
        "https_redirect": True,
        "host_redirect": url.hostname,
        "port_redirect": url.port or _HTTPS,
        "response_code": "PERMANENT_REDIRECT",
    }
    if url.path:
        target["prefix_rewrite"] = f"{url.path}/"
    return target
