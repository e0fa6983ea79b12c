"""All resources of one gateway, by type, as the lists that the files hold."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.gateway.ir import Gateway
from atoll.gateway.xds import capture, clusters, jwt, listener, revocations, routes, tracing
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.typed import Json

__all__ = ["render"]


def render(gateway: Gateway, folders: Folders) -> Mapping[str, list[Json]]:
    """`lds`, `cds`, `rds`, and for each filter that changes while connections stay a list with one resource."""
    return {
        "ecds": [jwt.resource(gateway.issuer, gateway.providers)],
        "revocations": [revocations.resource(gateway.ended_sessions)],
        "cds": [
            *(clusters.resource(cluster, folders) for cluster in gateway.clusters),
            *_collector(gateway),
            *_comparer(gateway),
        ],
        "rds": [routes.resource(gateway)],
        "lds": listener.resources(gateway, folders),
    }


def _comparer(gateway: Gateway) -> list[Json]:
    comparer = gateway.listener.comparer
    return [capture.cluster(comparer)] if gateway.mirrors and comparer else []


def _collector(gateway: Gateway) -> list[Json]:
    return [tracing.cluster(gateway.tracing)] if gateway.tracing else []
