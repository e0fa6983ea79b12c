"""One credential for each request, in the form that services read it: what both check is the same token.

Envoy's token filter looks for a token anywhere in a header, and in several headers at once: it then verifies all of them and
adds the claims of each, so nobody could say whose request it is. This filter, ours (`credentials.c`), refuses such requests
before.
"""

from __future__ import annotations

from atoll.gateway.xds import module
from atoll.gateway.xds.typed import Json, typed

__all__ = ["NAME", "NOT_BEARER", "TWO", "filter_", "nothing"]

NAME = "atoll.credentials"
TWO, NOT_BEARER = "two_credentials", "not_bearer"
"""What the response's details are, so that `local_reply` can tell these refusals from others."""


def filter_() -> Json:
    """On unless a route turns it off."""
    return module.http_filter("credentials")


def nothing() -> Json:
    """On a route that needs no token: whatever is sent there is its own matter."""
    return typed("envoy.config.route.v3.FilterConfig", disabled=True)
