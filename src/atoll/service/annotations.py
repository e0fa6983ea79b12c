"""What an annotation means to a handler: is it a scalar, a body, a transaction of some kind, or something to inject?

Types of engines and of Starlette are known by name, so that a service that does not use them does not import them.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import types
import typing
import uuid
from collections import abc
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

__all__ = [
    "bare",
    "database_flavour",
    "is_bodylike",
    "is_file",
    "is_pydantic",
    "is_request",
    "is_response",
    "is_scalar",
    "is_scalars",
    "is_socket",
    "is_streaming",
    "is_union",
    "is_upload",
    "optional_of",
    "split",
    "transaction_flavour",
]

_SCALARS: tuple[type, ...] = (
    str,
    int,
    float,
    bool,
    decimal.Decimal,
    uuid.UUID,
    dt.datetime,
    dt.date,
    dt.time,
    dt.timedelta,
    enum.Enum,
)
_MANY = (list, set, frozenset, tuple, abc.Sequence, abc.Set, abc.Collection)
_UNIONS = (Union, types.UnionType)


def split(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """`Annotated[T, a, b]` → (T, (a, b)); anything else → (it, ())."""
    if get_origin(annotation) is Annotated:
        return annotation.__origin__, annotation.__metadata__
    return annotation, ()


def bare(annotation: Any) -> Any:
    """Without Annotated and NewType."""
    while True:
        annotation, _ = split(annotation)
        if not isinstance(annotation, typing.NewType):
            return annotation
        annotation = annotation.__supertype__


def optional_of(annotation: Any) -> Any | None:
    """T for `T | None`, else None."""
    if get_origin(annotation) not in _UNIONS:
        return None
    rest = [one for one in get_args(annotation) if one is not type(None)]
    return rest[0] if len(rest) == 1 and len(rest) < len(get_args(annotation)) else None


def is_union(annotation: Any) -> bool:
    return get_origin(annotation) in _UNIONS


def is_scalar(annotation: Any) -> bool:
    """Can one string carry it?"""
    annotation = bare(annotation)
    if get_origin(annotation) is Literal:
        return True
    if get_origin(annotation) in _UNIONS:
        return all(one is type(None) or is_scalar(one) for one in get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, _SCALARS)


def is_scalars(annotation: Any) -> bool:
    """A list (set, tuple) of scalars, as a repeated query parameter carries it."""
    annotation = bare(annotation)
    inner = optional_of(annotation)
    if inner is not None:
        return is_scalars(inner)
    items = [one for one in get_args(annotation) if one is not Ellipsis]
    return get_origin(annotation) in _MANY and bool(items) and all(is_scalar(one) for one in items)


def is_bodylike(annotation: Any) -> bool:
    """Can a JSON body carry it, and would nobody expect it elsewhere?"""
    annotation = bare(annotation)
    origin = get_origin(annotation)
    if origin in _UNIONS:
        return any(is_bodylike(one) for one in get_args(annotation))
    if origin in (*_MANY, dict, abc.Mapping) or annotation in (list, dict):
        return True
    kind = origin or annotation
    return isinstance(kind, type) and (
        issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind) or typing.is_typeddict(kind) or is_pydantic(kind)
    )


def is_pydantic(annotation: Any) -> bool:
    """A Pydantic model, told without importing Pydantic."""
    return isinstance(annotation, type) and hasattr(annotation, "__pydantic_validator__")


def is_request(annotation: Any) -> bool:
    return _qualified(annotation) == "starlette.requests.Request"


def is_socket(annotation: Any) -> bool:
    return _qualified(annotation) == "starlette.websockets.WebSocket"


def is_upload(annotation: Any) -> bool:
    """An UploadFile, perhaps optional, perhaps a list."""
    annotation = optional_of(bare(annotation)) or bare(annotation)
    if get_origin(annotation) is list:
        annotation = get_args(annotation)[0]
    return _qualified(annotation) == "starlette.datastructures.UploadFile"


def is_response(annotation: Any) -> bool:
    """A Starlette Response or a subclass: an answer that is sent as it is."""
    return _is(annotation, "starlette.responses.Response")


def is_streaming(annotation: Any) -> bool:
    return _is(annotation, "starlette.responses.StreamingResponse")


def is_file(annotation: Any) -> bool:
    """A response that is read from the disk while it is sent."""
    return _is(annotation, "starlette.responses.FileResponse")


def transaction_flavour(annotation: Any) -> str | None:
    """The kind of transaction that is asked for: "postgresql", "sqlite", "mongodb", "sqlalchemy", "any"; None if none."""
    return _flavour(annotation, ("Transaction", "Session"))


def database_flavour(annotation: Any) -> str | None:
    """The same for a Database."""
    return _flavour(annotation, ("Database",))


def _flavour(annotation: Any, endings: tuple[str, ...]) -> str | None:
    if not isinstance(annotation, type):
        return None
    for one in annotation.__mro__:
        module = one.__module__.split(".")
        if module[:2] == ["atoll", "database"] and one.__name__.endswith(endings):
            return "any" if module[2] == "ports" else module[2]
    return None


def _is(annotation: Any, name: str) -> bool:
    return isinstance(annotation, type) and any(_qualified(one) == name for one in annotation.__mro__)


def _qualified(annotation: Any) -> str:
    return f"{annotation.__module__}.{annotation.__qualname__}" if isinstance(annotation, type) else ""
