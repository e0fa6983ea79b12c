"""Fills a handler's arguments from a request. Right input is decoded once; wrong input is then walked, so that the answer
names every fault of path, query, headers and body together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from atoll.errors import Invalid, Malformed, Mistake, Refused
from atoll.service import annotations as types
from atoll.service.arguments import Argument, From
from atoll.service.calls import Call
from atoll.service.operations import Operation
from atoll.service.validation import Fault, decode_other, faults

__all__ = ["INJECTED", "Binder", "body_reader", "cookies_of"]

INJECTED = (From.REQUEST, From.SOCKET, From.PRINCIPAL, From.TRANSACTION, From.DATABASE, From.DELIVERY, From.PROVIDED)
"""What the injector fills in."""

Read = Callable[[Call], Any]


class Binder:
    """The input of one operation. `binder(call)` gives the arguments by name; raises Invalid, Malformed or Refused (415)."""

    def __init__(self, operation: Operation) -> None:
        self._readers: tuple[tuple[str, Read], ...] = tuple(
            (one.name, _reader(one, operation)) for one in operation.arguments if one.source not in INJECTED
        )

    def __call__(self, call: Call) -> dict[str, Any]:
        try:
            return {name: read(call) for name, read in self._readers}
        except Invalid:
            raise self._every_fault(call) from None

    def _every_fault(self, call: Call) -> Mistake:
        found: list[Fault] = []
        for _name, read in self._readers:
            try:
                read(call)
            except Invalid as invalid:
                found += invalid.faults
            except Mistake as mistake:
                return mistake
        return Invalid(faults=found)


def body_reader(annotation: Any) -> Callable[[bytes], Any]:
    """JSON → `annotation`. What it gives raises Malformed, or Invalid that names every fault."""
    if types.is_pydantic(annotation):
        return partial(_read_pydantic, annotation)
    decode = msgspec.json.Decoder(annotation, dec_hook=decode_other).decode

    def read(body: bytes) -> Any:
        try:
            return decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _explain(body, annotation, error) from None

    return read


def _explain(body: bytes, annotation: Any, error: Exception) -> Mistake:
    try:
        found = faults(msgspec.json.decode(body), annotation)
    except RecursionError:
        return Malformed("the body is nested too deeply")
    except (msgspec.DecodeError, UnicodeDecodeError) as broken:
        return Malformed("the body is empty" if not body else f"the body is not JSON: {broken}", hint="send one JSON value")
    return Invalid(faults=found or [{"field": "body", "detail": str(error)}])


def _read_pydantic(model: Any, body: bytes) -> Any:
    from pydantic import ValidationError

    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    if any(one["type"] == "json_invalid" for one in found):
        raise Malformed(f"the body is not JSON: {found[0]['msg']}", hint="send one JSON value")
    raise Invalid(faults=[{"field": _pydantic_path(one["loc"]), "detail": one["msg"]} for one in found])


def _pydantic_path(place: tuple[str | int, ...]) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return path.lstrip(".") or "body"


def _reader(argument: Argument, operation: Operation) -> Read:
    match argument.source:
        case From.PATH:
            return _path_reader(argument, operation)
        case From.BODY:
            return _json_reader(argument)
        case From.FILE:
            return partial(_read_file, argument)
        case From.FORM:
            return _texts_reader(argument, _form_values)
        case From.HEADER:
            return _texts_reader(argument, _header_values)
        case From.COOKIE:
            return _texts_reader(argument, cookies_of)
        case _:
            return _texts_reader(argument, _query_values)


def _path_reader(argument: Argument, operation: Operation) -> Read:
    names = [segment[1:-1].removesuffix(":path") for segment in operation.path.split("/") if segment.startswith("{")]
    index = names.index(argument.wire)
    if argument.type is str:
        return lambda call: call.path[index]
    return lambda call: _convert(call.path[index], argument)


def _json_reader(argument: Argument) -> Read:
    if types.bare(argument.type) is bytes:
        return lambda call: call.body
    read_body = body_reader(argument.type)

    def read(call: Call) -> Any:
        if not call.body and not argument.required:
            return argument.default
        _check_json(call)
        return read_body(call.body)

    return read


def _check_json(call: Call) -> None:
    """JSON in any of its media types; a client that sends none is taken at its word."""
    for name, value in call.scope["headers"]:
        if name == b"content-type":
            media = value.split(b";", 1)[0].strip().lower()
            if media != b"application/json" and not media.endswith(b"+json"):
                raise Refused(
                    415,
                    "unsupported_media_type",
                    f"this operation takes application/json, not {media.decode('latin-1')[:100]}",
                    hint="send the header content-type: application/json",
                )
            return


Values = Callable[[Call], Mapping[str, list[str]]]


def _query_values(call: Call) -> Mapping[str, list[str]]:
    return call.query


def _header_values(call: Call) -> Mapping[str, list[str]]:
    return {name: [value] for name, value in call.headers.items()}


def cookies_of(call: Call) -> Mapping[str, list[str]]:
    """By name; one value each, in a list because that is what a parameter may have."""
    pairs = (part.partition("=") for part in call.headers.get("cookie", "").split(";"))
    return {name.strip(): [value.strip().strip('"')] for name, equals, value in pairs if equals}


def _form_values(call: Call) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in call.form.multi_items():
        if isinstance(value, str):
            found.setdefault(name, []).append(value)
    return found


def _texts_reader(argument: Argument, values: Values) -> Read:
    """A struct takes all values, a list all of one name, anything else the first of its name."""
    if argument.whole:
        return partial(_read_whole, argument, values)
    name = argument.wire.lower() if argument.source is From.HEADER else argument.wire
    many = types.is_scalars(argument.type)
    plain = argument.type is str

    def read(call: Call) -> Any:
        found = values(call).get(name)
        if found is None:
            if argument.required:
                raise Invalid(faults=[{"field": argument.wire, "detail": "is required"}])
            return argument.default
        return found[0] if plain else _convert(found if many else found[0], argument)

    return read


def _read_whole(argument: Argument, values: Values, call: Call) -> Any:
    wire: dict[str, Any] = {}
    lists = _list_fields(argument.type)
    for name, found in values(call).items():
        name = name.replace("-", "_") if argument.source is From.HEADER else name
        wire[name] = found if name in lists else found[0]
    return _convert(wire, argument, at="")


def _list_fields(annotation: Any) -> frozenset[str]:
    annotation = types.bare(annotation)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return frozenset(one.encode_name for one in msgspec.structs.fields(annotation) if types.is_scalars(one.type))
    return frozenset()


def _read_file(argument: Argument, call: Call) -> Any:
    found = [one for one in call.form.getlist(argument.wire) if not isinstance(one, str)]
    if not found:
        if argument.required:
            raise Invalid(faults=[{"field": argument.wire, "detail": "is required, as a file of a multipart form"}])
        return argument.default
    many = types.bare(types.optional_of(argument.type) or argument.type)
    return found if getattr(many, "__origin__", None) is list else found[0]


def _convert(raw: Any, argument: Argument, at: str | None = None) -> Any:
    try:
        return msgspec.convert(raw, argument.type, strict=False, str_keys=True)
    except msgspec.ValidationError as error:
        where = argument.wire if at is None else at
        found = faults(raw, argument.type, strict=False, at=where)
        raise Invalid(faults=found or [{"field": where or argument.name, "detail": str(error)}]) from None
