"""What changed between two versions of a contract, in words a person can decide on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from atoll.system.contract import Contract

__all__ = ["differences"]


def differences(old: Contract, new: Contract) -> list[str]:
    """`GET /orders/{id} is new`, `event order_placed changed`, …; at least one line whenever the digests differ."""
    if old.digest == new.digest:
        return []
    found = [
        line
        for kind, before, after in (
            ("", _operations(old), _operations(new)),
            ("event ", _by_name(old.publishes), _by_name(new.publishes)),
            ("subscription ", _subscriptions(old), _subscriptions(new)),
            ("setting ", _by_name(old.settings), _by_name(new.settings)),
            ("schema ", _schemas(old), _schemas(new)),
        )
        for line in _changes(kind, before, after)
    ]
    if old.database != new.database:
        found.append(f"its database is {new.database or 'none'} instead of {old.database or 'none'}")
    return found or ["its descriptions changed"]


def _changes(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield f"{kind}{name} is new"
        elif name not in after:
            yield f"{kind}{name} is gone"
        elif before[name] != after[name]:
            yield f"{kind}{name} changed"


def _operations(contract: Contract) -> dict[str, Any]:
    """Each verb of each path with all that its document says of it."""
    paths = (contract.document.get("openapi") or {}).get("paths") or {}
    return {f"{one.method} {one.path}": paths[one.path][one.method.lower()] for one in contract.operations}


def _subscriptions(contract: Contract) -> dict[str, Any]:
    return {f"{one.source}.{one.name}": one for one in contract.consumes}


def _schemas(contract: Contract) -> dict[str, Any]:
    return dict(((contract.document.get("openapi") or {}).get("components") or {}).get("schemas") or {})


def _by_name(items: tuple[Any, ...]) -> dict[str, Any]:
    return {item.name: item for item in items}
