"""What OpenAPI's `security` says of an operation, as far as the gateway can hold it: public, any token, or one with one scope.

What it can't hold is refused: taken for something similar, an operation would be open to more than its author meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Access", "access", "is_scope"]

_SCHEME = "token"
# RFC 6749 §3.3.
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")


@dataclass(frozen=True, slots=True)
class Access:
    """`scope` None with `public` False: any token."""

    public: bool
    scope: str | None = None


def is_scope(value: Any) -> bool:
    """Whether a token can have it as one of its scopes."""
    return isinstance(value, str) and _SCOPE.fullmatch(value) is not None


def access(operation: Mapping[str, Any], document: Mapping[str, Any]) -> Access:
    """Its own `security`, else the document's (OpenAPI 3.1 §4.8.10), else any token. Raises ValueError."""
    security: Any = operation.get("security", document.get("security", [{_SCHEME: []}]))
    if not isinstance(security, list):
        raise ValueError(f'security is {security!r}: a list, like [{{"token": ["orders:read"]}}], or [] for public')
    if not security:
        return Access(public=True)
    if len(security) > 1:
        raise ValueError(f"security names {len(security)} alternatives: there can be one")
    return Access(public=False, scope=_scope(security[0]))


def _scope(requirement: Any) -> str | None:
    if not isinstance(requirement, dict) or list(requirement) != [_SCHEME]:
        raise ValueError(f'security has {requirement!r}: the one scheme is "token"; for public, security is []')
    scopes = requirement[_SCHEME]
    if not isinstance(scopes, list) or not all(is_scope(one) for one in scopes):
        raise ValueError(f"security has the scopes {scopes!r}: a list of one scope, or of none for any token")
    if len(scopes) > 1:
        raise ValueError(f"security asks for {len(scopes)} scopes at once, {', '.join(scopes)}: there can be one")
    return scopes[0] if scopes else None
