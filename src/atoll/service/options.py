"""What may stand in a decorator: names and types, checked when it runs, because not everybody runs a type checker.

An unknown name is the dangerous kind: `scop=` would leave an operation open to every token.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, get_type_hints

import msgspec

from atoll.errors import AtollError, SystemMistake
from atoll.system.access import is_scope

__all__ = ["check_options"]

# These are texts with a form of their own, and whoever reads them says which.
_READ_BY_OTHERS = frozenset({"cache", "idempotency_key", "rate_limit"})


def check_options(options: Mapping[str, Any], allowed: type, name: str, where: str) -> None:
    """`allowed` is a TypedDict, `name` the handler's, `where` its file:line. Raises SystemMistake."""
    types = get_type_hints(allowed)
    for option, value in options.items():
        if option not in types:
            near = get_close_matches(option, types, n=1)
            hint = f"did you mean {near[0]}=?" if near else f"options: {', '.join(sorted(types))}"
            raise SystemMistake(f"{name}: there is no option {option}=", where=where, hint=hint)
        if wrong := _wrong(option, value, types[option]):
            raise SystemMistake(f"{name}: {option}={value!r}", where=where, hint=wrong)


def _wrong(option: str, value: Any, type: Any) -> str:
    """What it must be; "" when it is that."""
    if option in _READ_BY_OTHERS:
        return ""
    if option == "scope":
        return "" if is_scope(value) else 'one scope, like "orders:write"; without the option, any token will do'
    if option == "raises":
        return "" if _are_errors(value) else "a list of classes below atoll.errors.AtollError"
    try:
        msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        return str(error)
    return "" if value or option != "id" else "a name"


def _are_errors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, type) and issubclass(one, AtollError) for one in value)
