"""Values into BSON and documents into the type a service asks for.

A Decimal is stored as Decimal128, so that MongoDB sorts, compares and adds it, and its trailing zeros are kept; a UUID as
the binary type 4; a datetime as a date, which keeps milliseconds and comes back in UTC; everything else as msgspec's JSON has
it. A field called `id` is the document's `_id`, both ways; a dict is the document as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import msgspec
from msgspec import inspect

from atoll.errors import Bug

if TYPE_CHECKING:
    from bson.codec_options import CodecOptions

__all__ = ["codec", "from_document", "from_documents", "plain", "to_document"]

T = TypeVar("T")
_NATIVE = (bytes, datetime, Decimal, UUID)


@cache
def codec() -> CodecOptions[dict[str, Any]]:
    """What a collection is opened with, so that the types above travel both ways, also in filters."""
    from bson.binary import UuidRepresentation
    from bson.codec_options import CodecOptions, TypeCodec, TypeRegistry
    from bson.decimal128 import Decimal128

    class Decimals(TypeCodec):
        python_type = Decimal
        bson_type = Decimal128

        def transform_python(self, value: Decimal) -> Decimal128:
            return Decimal128(value)

        def transform_bson(self, value: Decimal128) -> Decimal:
            return value.to_decimal()

    return CodecOptions(
        dict, tz_aware=True, uuid_representation=UuidRepresentation.STANDARD, type_registry=TypeRegistry([Decimals()])
    )


def to_document(value: Any, id: Any = None) -> dict[str, Any]:
    """The document of a Struct, dataclass or dict. `id`, or the field of that name, becomes `_id`."""
    document = dict(plain(value))
    if not isinstance(value, Mapping) and "id" in document:
        document = {"_id": document.pop("id"), **document}
    if id is not None:
        document = {"_id": plain(id), **document}
    return document


def plain(value: Any) -> Any:
    """What BSON takes for `value`; BSON's own types (ObjectId, Regex, …) pass. For filters and changes as well."""
    match value:
        case msgspec.Struct():
            return msgspec.to_builtins(value, builtin_types=_NATIVE, str_keys=True)
        case Mapping():
            return {str(name): plain(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case Enum():
            return value.value
        case date() if not isinstance(value, datetime):
            return value.isoformat()
        case _ if is_dataclass(value) and not isinstance(value, type):
            return msgspec.to_builtins(value, builtin_types=_NATIVE, str_keys=True)
        case _:
            return value


def from_document(type_: type[T], document: dict[str, Any]) -> T:
    """Raises Bug when a value doesn't fit its field."""
    return from_documents(type_, [document])[0]


def from_documents(type_: type[T], documents: Sequence[dict[str, Any]]) -> list[T]:
    """Raises Bug when a value doesn't fit its field."""
    wanted = _wanted(cast("Any", type_))
    if wanted is not None:
        documents = [_shaped(document, wanted) for document in documents]
    try:
        return msgspec.convert(documents, list[type_], strict=False)  # type: ignore[valid-type]  # a type at run time
    except msgspec.ValidationError as error:
        raise Bug(f"a document does not fit {type_.__name__}: {error}") from error


def _shaped(document: dict[str, Any], wanted: Mapping[str, str]) -> dict[str, Any]:
    shaped = {name: document[key] for name, key in wanted.items() if key in document}
    for name, key in wanted.items():
        if key == "_id" and type(shaped.get(name)).__name__ == "ObjectId":
            shaped[name] = str(shaped[name])
    return shaped


@cache
def _wanted(type_: Any) -> Mapping[str, str] | None:
    """Which of the document's keys each field comes from; None for a dict, which takes all."""
    if type_ is dict:
        return None
    info = inspect.type_info(type_)
    if isinstance(info, inspect.DictType):
        return None
    if isinstance(info, inspect.StructType | inspect.DataclassType | inspect.TypedDictType):
        names = [field.encode_name for field in info.fields]
        return {name: "_id" if name == "id" and "_id" not in names else name for name in names}
    raise Bug(f"documents can't become {getattr(type_, '__name__', type_)}", hint="ask for a Struct, a dataclass or dict")
