"""One OpenAPI document of all services: what `/openapi.json` gives, and what the API page is made from.

Component names get their service's name in front (`orders.Order`), always, so that a service added later changes no
name. Pages of client services are not API and left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atoll.gateway.kept import Kept
from atoll.gateway.known import SystemEntry
from atoll.gateway.offers import Offer
from atoll.gateway.paths import Path, parameters

__all__ = ["merge"]

Json = dict[str, Any]
_COMPONENTS = "#/components/"
_OURS = "securitySchemes"


def merge(system: SystemEntry, offers: Sequence[Offer]) -> Json:
    """OpenAPI 3.1. The same offers give the same document."""
    shown = [offer for offer in offers if system.services[offer.service].kind == "service"]
    return {
        "openapi": "3.1.0",
        "info": {"title": system.name, "version": "1"},
        "servers": [{"url": system.public_url}],
        "tags": _tags(shown),
        "paths": _paths(shown),
        "components": {**_components(shown), _OURS: {"token": _token(system, shown)}},
    }


def _tags(offers: Sequence[Offer]) -> list[Json]:
    newest = {offer.service: offer.contract for offer in offers}
    found = []
    for service in sorted(newest):
        info = newest[service].document["openapi"].get("info") or {}
        text = info.get("description") or info.get("summary") or info.get("title") or ""
        found.append({"name": service, **({"description": text} if text else {})})
    return found


def _token(system: SystemEntry, offers: Sequence[Offer]) -> Json:
    scopes = sorted({offer.operation.scope for offer in offers if offer.operation.scope})
    flow = {"tokenUrl": f"{system.issuer}/token", "scopes": {scope: scope for scope in scopes}}
    return {"type": "oauth2", "flows": {"password": flow}}


def _paths(offers: Sequence[Offer]) -> Json:
    """Templates that differ in parameter names only are one path (OpenAPI 3.1 §4.8.8.1): the first one's names count."""
    templates: dict[str, Path] = {}
    found: dict[str, Json] = {}
    _operation.begin()
    for offer in offers:
        path = templates.setdefault(offer.path.shape, offer.path)
        found.setdefault(path.template, {})[offer.operation.method.lower()] = _operation(offer, path)
    return found


@Kept
def _operation(offer: Offer, path: Path) -> Json:
    item = offer.contract.document["openapi"]["paths"][offer.operation.path]
    raw = item[offer.operation.method.lower()]
    names = dict(zip(parameters(offer.path.template), parameters(path.template), strict=True))
    merged: Json = _renamed(raw, offer.service)
    own = [*_renamed(item.get("parameters") or [], offer.service), *merged.get("parameters", [])]
    if own:
        merged["parameters"] = [_parameter(one, names) for one in own]
    merged["operationId"] = offer.name
    merged["tags"] = [offer.service]
    merged["security"] = [] if offer.operation.public else [{"token": [s for s in [offer.operation.scope] if s]}]
    return merged


def _parameter(parameter: Json, names: Mapping[str, str]) -> Json:
    if parameter.get("in") != "path":
        return parameter
    return {**parameter, "name": names.get(parameter["name"], parameter["name"])}


def _components(offers: Sequence[Offer]) -> Json:
    found: dict[str, Json] = {}
    for service, contract in sorted({(offer.service, offer.contract.digest): offer.contract for offer in offers}.items()):
        for kind, entries in (contract.document["openapi"].get("components") or {}).items():
            if kind != _OURS:
                named = {f"{service[0]}.{name}": _renamed(entry, service[0]) for name, entry in entries.items()}
                found.setdefault(kind, {}).update(named)
    return found


def _renamed(node: Any, service: str) -> Any:
    """A copy with every reference to a component led to its new name."""
    if isinstance(node, dict):
        return {key: _renamed(value, service) for key, value in node.items()}
    if isinstance(node, list):
        return [_renamed(value, service) for value in node]
    if isinstance(node, str) and node.startswith(_COMPONENTS):
        kind, _, name = node.removeprefix(_COMPONENTS).partition("/")
        return f"{_COMPONENTS}{kind}/{service}.{name}"
    return node
