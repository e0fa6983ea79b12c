"""Who calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Principal"]


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller, from a token that this service verified itself. `id` is the token's `sub`, `session` its `sid`."""

    id: str
    scopes: frozenset[str] = frozenset()
    session: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
