"""Names every fault of an input, where msgspec stops at the first.

Walks only what was refused already. msgspec stays the judge of every value: a part is entered only when it refuses the
part, and where nothing inside is wrong its own message is what is reported.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, get_args, get_origin

import msgspec

from atoll.service import annotations as types

__all__ = ["MAX_FAULTS", "Fault", "decode_other", "faults"]

MAX_FAULTS = 100
_AT = re.compile(r"^(?P<message>.*) - at `(?:key` in `)?\$(?P<path>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")
_LISTS = (list, set, frozenset, abc.Sequence, abc.Set, abc.Collection, abc.Iterable, abc.MutableSequence, abc.MutableSet)
_DICTS = (dict, abc.Mapping, abc.MutableMapping)

Fault = dict[str, str]


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a struct, data class or TypedDict, by its name on the wire."""

    name: str
    type: Any
    required: bool


def faults(raw: Any, annotation: Any, *, strict: bool = True, at: str = "") -> list[Fault]:
    """Every fault of `raw` (decoded JSON, or texts when not `strict`) as `annotation`: `[{"field", "detail"}]`, at most 100.

    Empty when msgspec takes it. `at` is where `raw` itself stands.
    """
    walk = _Walk(strict)
    walk.visit(raw, annotation, at)
    return walk.found


def decode_other(cls: type, raw: Any) -> Any:
    """What msgspec leaves to others: Pydantic models inside of its own types. Pydantic's error is a ValueError."""
    if types.is_pydantic(cls):
        return cls.model_validate(raw)  # type: ignore[attr-defined]
    raise TypeError(f"{cls.__qualname__} can't be read from JSON")


class _Walk:
    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self.found: list[Fault] = []

    def visit(self, raw: Any, annotation: Any, path: str) -> None:
        if len(self.found) >= MAX_FAULTS or (refusal := self._refusal(raw, annotation)) is None:
            return
        before = len(self.found)
        for detail in _length_faults(raw, annotation):
            self.found.append({"field": path or "body", "detail": detail})
        self._descend(raw, types.bare(annotation), path)
        if len(self.found) == before:
            self.found.append(_fault(path, refusal))

    def _refusal(self, raw: Any, annotation: Any) -> str | None:
        try:
            msgspec.convert(raw, annotation, strict=self._strict, str_keys=True, dec_hook=decode_other)
        except msgspec.ValidationError as error:
            return str(error)
        return None

    def _descend(self, raw: Any, annotation: Any, path: str) -> None:
        annotation = _branch(raw, annotation)
        kind = get_origin(annotation) or annotation
        if isinstance(raw, dict):
            if kind in _DICTS:
                self._entries(raw, annotation, path)
            elif (fields := _fields(annotation, kind)) is not None:
                self._members(raw, kind, fields, path)
        elif isinstance(raw, list):
            for index, (item, item_type) in enumerate(_items(raw, annotation, kind)):
                self.visit(item, item_type, f"{path}[{index}]")

    def _members(self, raw: dict[str, Any], kind: Any, fields: Sequence[_Field], path: str) -> None:
        for one in fields:
            if one.name in raw:
                self.visit(raw[one.name], one.type, _join(path, one.name))
            elif one.required:
                self.found.append({"field": _join(path, one.name), "detail": "is required"})
        config = getattr(kind, "__struct_config__", None)
        if config is not None and config.forbid_unknown_fields:
            known = {one.name for one in fields} | {config.tag_field}
            for name in raw:
                if name not in known:
                    self.found.append({"field": _join(path, name), "detail": "is not known here"})

    def _entries(self, raw: dict[str, Any], annotation: Any, path: str) -> None:
        key_type, value_type = get_args(annotation) or (Any, Any)
        for key, value in raw.items():
            if (refusal := self._refusal({key: None}, GenericAlias(dict, (key_type, None)))) is not None:
                self.found.append(_fault(_join(path, key), refusal))
            else:
                self.visit(value, value_type, _join(path, key))


def _branch(raw: Any, annotation: Any) -> Any:
    """The member of a union that `raw` means: msgspec allows one per JSON type, structs are told apart by their tag."""
    if not types.is_union(annotation):
        return annotation
    members = [types.bare(one) for one in get_args(annotation)]
    if isinstance(raw, dict):
        objects = [one for one in members if _is_object(one)]
        return next((one for one in objects if _has_tag(one, raw)), objects[0] if len(objects) == 1 else Any)
    if isinstance(raw, list):
        return next((one for one in members if (get_origin(one) or one) in (*_LISTS, tuple) or _is_array(one)), Any)
    return Any


def _is_object(annotation: Any) -> bool:
    kind = get_origin(annotation) or annotation
    return kind in _DICTS or (_fields(annotation, kind) is not None and not _is_array(annotation))


def _is_array(annotation: Any) -> bool:
    config = getattr(get_origin(annotation) or annotation, "__struct_config__", None)
    return config is not None and config.array_like


def _has_tag(annotation: Any, raw: dict[str, Any]) -> bool:
    config = getattr(get_origin(annotation) or annotation, "__struct_config__", None)
    return config is not None and config.tag is not None and raw.get(config.tag_field) == config.tag


def _fields(annotation: Any, kind: Any) -> list[_Field] | None:
    if not isinstance(kind, type):
        return None
    if issubclass(kind, msgspec.Struct):
        return [_Field(one.encode_name, one.type, one.required) for one in msgspec.structs.fields(annotation)]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        return [_Field(one.name, hints[one.name], _is_required(one)) for one in dataclasses.fields(kind) if one.init]
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind, include_extras=False)
        return [_Field(name, hint, name in getattr(kind, "__required_keys__", ())) for name, hint in hints.items()]
    return None


def _is_required(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _items(raw: list[Any], annotation: Any, kind: Any) -> Iterator[tuple[Any, Any]]:
    """Each item with its type; nothing when they have none."""
    if _is_array(annotation):
        yield from zip(raw, [one.type for one in msgspec.structs.fields(annotation)], strict=False)
        return
    arguments = get_args(annotation)
    if kind is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(arguments) == len(raw):
            yield from zip(raw, arguments, strict=True)
    elif (kind in _LISTS or kind is tuple) and arguments:
        yield from ((item, arguments[0]) for item in raw)


def _length_faults(raw: Any, annotation: Any) -> Iterator[str]:
    """A list may be too long and hold wrong items: both are said."""
    if not isinstance(raw, list | dict):
        return
    for extra in types.split(annotation)[1]:
        if isinstance(extra, msgspec.Meta):
            if extra.min_length is not None and len(raw) < extra.min_length:
                yield f"needs at least {extra.min_length}, got {len(raw)}"
            if extra.max_length is not None and len(raw) > extra.max_length:
                yield f"takes at most {extra.max_length}, got {len(raw)}"


def _fault(path: str, message: str) -> Fault:
    """msgspec's own words; the path in them is relative to where it was asked."""
    inside = ""
    if found := _AT.match(message):
        message, inside = found["message"], found["path"].replace("[...]", "")
    if found := _MISSING.match(message):
        message, inside = "is required", f"{inside}.{found['name']}"
    return {"field": f"{path}{inside}".lstrip(".") or "body", "detail": message}


def _join(path: str, name: str) -> str:
    if not name.isidentifier():
        return f'{path}["{name[:100]}"]'
    return f"{path}.{name[:100]}" if path else name[:100]
