"""By which digest a registry knows an image: `deploy/digests.json`, written by whoever pushes, read by whoever renders. Pure.

A tag here never changes its meaning, but a registry could be made to give something else for it; for a digest it can't.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

__all__ = ["FILE", "kept", "pinned", "text", "unpinned"]

FILE = "deploy/digests.json"
"""In the system's folder, to be committed."""


def pinned(references: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """References with digests, `shop/orders:1.0.0-4f1c…@sha256:…`, as far as they are known. Both by part."""
    return {name: f"{one}@{known[one]}" if one in known else one for name, one in references.items()}


def unpinned(references: Mapping[str, str]) -> list[str]:
    """Those without."""
    return sorted({one for one in references.values() if "@" not in one})


def kept(known: Mapping[str, str], pushed: Mapping[str, str], present: Iterable[str]) -> dict[str, str]:
    """What to remember after a push, by reference: of the same repositories, what is used now, and of others all."""
    used = set(present)
    repositories = {_repository(one) for one in used}
    rest = {one: digest for one, digest in known.items() if one in used or _repository(one) not in repositories}
    return {**rest, **pushed}


def text(known: Mapping[str, str]) -> str:
    return json.dumps(dict(sorted(known.items())), indent=1) + "\n"


def _repository(reference: str) -> str:
    return reference.rpartition(":")[0]
