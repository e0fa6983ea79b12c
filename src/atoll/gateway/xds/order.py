"""Which filters a request passes, in this order. Nowhere else is an order written down."""

from __future__ import annotations

from atoll.gateway.ir import Gateway
from atoll.gateway.xds import (
    api_keys,
    body_size,
    capture,
    compression,
    cors,
    credentials,
    jwt,
    rate_limit,
    rate_limit_headers,
    rbac,
    revocations,
    router,
    transport_headers,
    whole_body,
)
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.typed import Json

__all__ = ["filters"]


def filters(gateway: Gateway, folders: Folders) -> list[Json]:
    """Before all of these, headers that only the gateway may set are stripped (`early_headers`)."""
    return [
        # What every answer says of the connection, also those that the filters below make: so it stands before them.
        *transport_headers.filters(gateway),
        # Answers preflights before anybody asks for a token, and lets pages read errors too: what is refused behind it passes
        # it on its way back.
        *([cors.filter_()] if gateway.cors else []),
        # Answers come back in the other order: what all others have added to them is compressed too.
        *(compression.filters() if gateway.compression else []),
        # An oversize body is refused by its Content-Length, before anything is spent on its token.
        body_size.filter_(gateway.listener.body_limit_bytes),
        # Sees answers after the two rate limits have, so it stands before them.
        rate_limit_headers.filter_(),
        # A flood costs least where nothing has been spent on it yet.
        rate_limit.by_address(),
        # A key becomes a token, so that from here on there are tokens only.
        *([api_keys.filter_(gateway.api_keys)] if gateway.api_keys else []),
        # Exactly one token, also where one was made of a key just now.
        credentials.filter_(),
        # Who is it? Puts the claims into metadata (for rbac) and into headers (for the service and the access log).
        jwt.filter_(folders.source("ecds")),
        # Was their session ended? Reads a header that the token filter sets from the verified token.
        revocations.filter_(folders.source("revocations")),
        # Needs to know who asks; before the scope, so that trying scopes is counted too.
        rate_limit.by_subject(),
        # May they? Reads the metadata that the token filter made, so it can't come before it.
        rbac.filter_(),
        # Keeps the bodies of those who may, and of nobody else.
        whole_body.filter_(gateway.listener.body_limit_bytes),
        # Captures answers for a comparison, on the routes that say so. Behind all that may refuse, so that a mirror is asked
        # what a service was asked; next to the router, so that an answer is seen before anything compresses it.
        capture.filter_(),
        # Sends it on. Always last: Envoy refuses a filter behind it.
        router.filter_(),
    ]
