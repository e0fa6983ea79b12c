"""What fills the arguments of a handler, an event handler, a provider or a hook, by their annotations.

An argument comes from, in this order: what its marker says; its type (Request, UploadFile, Principal, a transaction, a
database, Settings, a provided type); the path, when its name stands there; the query, when one string can carry it; the
body.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec.structs import replace

from atoll.delivery.handling import Delivery
from atoll.errors import SystemMistake
from atoll.service import annotations as types
from atoll.service.parameters import Body, Cookie, Form, Header, Marker, Query
from atoll.service.principal import Principal
from atoll.service.settings import Settings

__all__ = [
    "REQUIRED",
    "WITHOUT_BODY",
    "Argument",
    "From",
    "Place",
    "arguments_of",
    "declared_at",
    "hints_of",
    "of_operation",
    "of_subscription",
    "parameters",
    "settle",
]

REQUIRED: Any = inspect.Parameter.empty
WITHOUT_BODY = ("GET", "DELETE")


class From(enum.Enum):
    """Where an argument comes from."""

    PATH = "path"
    QUERY = "query"
    HEADER = "header"
    COOKIE = "cookie"
    BODY = "body"
    FORM = "form"
    FILE = "file"
    REQUEST = "request"
    SOCKET = "socket"
    PRINCIPAL = "principal"
    TRANSACTION = "transaction"
    DATABASE = "database"
    DELIVERY = "delivery"
    EVENT = "event"
    PROVIDED = "provided"


class Argument(msgspec.Struct, frozen=True):
    """One argument of a handler or provider. `wire` is its name outside, `whole` means that one struct takes all there is."""

    name: str
    source: From
    type: Any
    wire: str = ""
    default: Any = REQUIRED
    whole: bool = False

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


def arguments_of(function: Callable[..., Any], names: Mapping[str, Any] | None = None) -> tuple[Argument, ...]:
    """The arguments of a provider or hook: everything is injected."""
    where = declared_at(function)
    hints = hints_of(function, names)
    return tuple(_injected(parameter, hints[parameter.name], where) for parameter in parameters(function, where))


def declared_at(function: Callable[..., Any]) -> str:
    """`file:line` of a function, for messages."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


class Place(msgspec.Struct, frozen=True):
    """Where an argument stands: the operation's verb, the names in its path, file:line."""

    method: str
    in_path: tuple[str, ...]
    where: str


def hints_of(function: Callable[..., Any], names: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Its annotations as types; `names` are the caller's locals. Raises SystemMistake for a name that is not known yet."""
    try:
        return get_type_hints(function, localns=dict(names or {}), include_extras=True)
    except NameError as error:
        raise SystemMistake(
            f"{function.__name__}: the annotation {error.name!r} is not known when the service is imported",
            where=declared_at(function),
            hint="import it at run time too, not only under TYPE_CHECKING, and above the handler",
        ) from error


def parameters(function: Callable[..., Any], where: str) -> list[inspect.Parameter]:
    found = list(inspect.signature(function).parameters.values())
    for parameter in found:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise SystemMistake(
                f"{function.__name__}: {parameter} can't be filled in",
                where=where,
                hint="name every argument; no *args, no **kwargs",
            )
        if parameter.annotation is parameter.empty:
            raise SystemMistake(
                f"{function.__name__}: {parameter.name!r} has no annotation",
                where=where,
                hint="its type decides where it comes from",
            )
    return found


def of_operation(parameter: inspect.Parameter, hints: Mapping[str, Any], place: Place) -> Argument:
    annotation, extras = types.split(hints[parameter.name])
    markers = [extra() if extra in _MARKERS else extra for extra in extras if isinstance(extra, Marker) or extra in _MARKERS]
    kept = tuple(extra for extra in extras if not isinstance(extra, Marker) and extra not in _MARKERS)
    annotation = Annotated[(annotation, *kept)] if kept else annotation
    if markers:
        return _marked(parameter, annotation, markers[0], place)
    return _by_type(parameter, annotation) or _by_shape(parameter, annotation, place)


_MARKERS = (Query, Header, Cookie, Form, Body)


def _marked(parameter: inspect.Parameter, annotation: Any, marker: Marker, place: Place) -> Argument:
    source = {Query: From.QUERY, Header: From.HEADER, Cookie: From.COOKIE, Form: From.FORM, Body: From.BODY}[type(marker)]
    whole = not (types.is_scalar(annotation) or types.is_scalars(annotation)) or source is From.BODY
    if whole and not types.is_bodylike(annotation) and not (source is From.BODY and _is_leaf(annotation)):
        raise _unknown(parameter, annotation, place.where)
    wire = marker.name or (parameter.name.replace("_", "-") if source is From.HEADER else parameter.name)
    return Argument(parameter.name, source, annotation, wire, _or_none(parameter, annotation), whole)


def _is_leaf(annotation: Any) -> bool:
    return types.is_scalar(annotation) or types.bare(annotation) in (bytes, Any, object)


def _by_type(parameter: inspect.Parameter, annotation: Any) -> Argument | None:
    """Arguments whose type says it all."""
    inner = types.optional_of(annotation) or annotation
    if types.is_request(annotation):
        source = From.REQUEST
    elif types.is_socket(annotation):
        source = From.SOCKET
    elif types.is_upload(annotation):
        return Argument(parameter.name, From.FILE, annotation, parameter.name, _or_none(parameter, annotation))
    elif inner is Principal:
        return Argument(parameter.name, From.PRINCIPAL, annotation, "", _or_none(parameter, annotation))
    elif types.transaction_flavour(annotation):
        source = From.TRANSACTION
    elif types.database_flavour(annotation):
        source = From.DATABASE
    elif annotation is Delivery:
        source = From.DELIVERY
    elif isinstance(annotation, type) and issubclass(annotation, Settings):
        source = From.PROVIDED
    else:
        return None
    return Argument(parameter.name, source, annotation)


def _or_none(parameter: inspect.Parameter, annotation: Any) -> Any:
    """`T | None` is not required, whether or not it says `= None`."""
    return None if parameter.default is REQUIRED and types.optional_of(annotation) else parameter.default


def _by_shape(parameter: inspect.Parameter, annotation: Any, place: Place) -> Argument:
    name = parameter.name
    if name in place.in_path:
        if not types.is_scalar(annotation):
            raise SystemMistake(f"{name!r} stands in the path, but {_show(annotation)} is no scalar", where=place.where)
        return Argument(name, From.PATH, annotation, name)
    if types.is_scalar(annotation) or (types.is_scalars(annotation) and place.method in WITHOUT_BODY):
        return Argument(name, From.QUERY, annotation, name, _or_none(parameter, annotation))
    if types.is_bodylike(annotation) and place.method not in WITHOUT_BODY:
        return Argument(name, From.BODY, annotation, name, _or_none(parameter, annotation), whole=True)
    return _injected(parameter, annotation, place.where)


def _injected(parameter: inspect.Parameter, annotation: Any, where: str) -> Argument:
    known = _by_type(parameter, annotation)
    if known is not None:
        return known
    is_class = isinstance(annotation, type) and annotation.__module__ != "builtins"
    if not is_class and not types.is_bodylike(annotation):
        raise _unknown(parameter, annotation, where)
    return Argument(parameter.name, From.PROVIDED, annotation, "", parameter.default)


def of_subscription(position: int, parameter: inspect.Parameter, hints: Mapping[str, Any], where: str) -> Argument:
    annotation = hints[parameter.name]
    if position == 0:
        if types.is_bodylike(annotation):
            return Argument(parameter.name, From.EVENT, annotation)
        raise SystemMistake(f"{_show(annotation)} can't hold an event", where=where, hint="a Struct with the fields you need")
    argument = _injected(parameter, annotation, where)
    if argument.source in (From.PRINCIPAL, From.REQUEST, From.SOCKET, From.FILE):
        raise SystemMistake(
            f"an event has no {argument.source.value}", where=where, hint="what it needs belongs into the event"
        )
    return argument


def settle(argument: Argument, provided: Mapping[Any, Any]) -> Argument:
    if argument.source is From.BODY and _hashable(argument.type) and argument.type in provided:
        return replace(argument, source=From.PROVIDED)
    return argument


def _hashable(annotation: Any) -> bool:
    try:
        hash(annotation)
    except TypeError:
        return False
    return True


def _unknown(parameter: inspect.Parameter, annotation: Any, where: str) -> SystemMistake:
    return SystemMistake(
        f"{parameter.name}: {_show(annotation)} can come from nowhere",
        where=where,
        hint="a scalar, a Struct, Annotated[…, Query() | Header() | Cookie() | Form() | Body()], or a type that is provided",
    )


def _show(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)
