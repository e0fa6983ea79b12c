"""JSON schemas of types, for both contract documents. Named types become components, each under one name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from atoll.errors import SystemMistake
from atoll.service import annotations as types
from atoll.service.settings import Secret

__all__ = ["Schemas"]

_PREFIX = "#/components/schemas/"
_REF = _PREFIX + "{name}"


class Schemas:
    """The schemas of `annotations`, made together so that equal names are told apart in one way."""

    def __init__(self, annotations: Iterable[tuple[Any, str]]) -> None:
        """Annotations with file:line of who uses them. Raises SystemMistake for one that JSON can't carry."""
        known: list[tuple[Any, str]] = []
        for one, where in annotations:
            if not any(one is other or one == other for other, _ in known):
                known.append((one, where))
        plain = [entry for entry in known if not types.is_pydantic(entry[0])]
        schemas, components = _components(plain)
        self.components: dict[str, Any] = dict(components)
        self._schemas: list[tuple[Any, dict[str, Any]]] = list(zip([one for one, _ in plain], schemas, strict=True))
        for model, _ in known:
            if types.is_pydantic(model):
                self._schemas.append((model, self._add_pydantic(model)))

    def of(self, annotation: Any) -> dict[str, Any]:
        """The schema, or a reference to it."""
        return next(schema for known, schema in self._schemas if known is annotation or known == annotation)

    def resolved(self, annotation: Any) -> Mapping[str, Any]:
        """The schema itself, not a reference."""
        schema = self.of(annotation)
        while "$ref" in schema:
            schema = self.components[schema["$ref"].rsplit("/", 1)[1]]
        return schema

    def referred_to_by(self, document: Any) -> dict[str, Any]:
        """The components that `document` needs, by name."""
        names: set[str] = set()
        waiting = _references(document)
        while waiting:
            names |= waiting
            waiting = {one for name in waiting for one in _references(self.components[name])} - names
        return {name: self.components[name] for name in sorted(names)}

    def _add_pydantic(self, model: Any) -> dict[str, Any]:
        schema = model.model_json_schema(ref_template=_REF.format(name="{model}"))
        self.components.update(schema.pop("$defs", {}))
        self.components[model.__name__] = schema
        return {"$ref": _REF.format(name=model.__name__)}


def _components(annotations: list[tuple[Any, str]]) -> tuple[Iterable[dict[str, Any]], dict[str, Any]]:
    try:
        return msgspec.json.schema_components([one for one, _ in annotations], schema_hook=_hook, ref_template=_REF)
    except (TypeError, NameError, NotImplementedError) as error:
        for one, where in annotations if len(annotations) > 1 else ():
            _components([(one, where)])
        raise SystemMistake(
            f"JSON can't carry {annotations[0][0]}: {str(error).splitlines()[-1]}",
            where=annotations[0][1],
            hint="structs, scalars, lists and dicts of them",
        ) from error


def _references(node: Any) -> set[str]:
    """The names of the components that are referred to anywhere in `node`."""
    if isinstance(node, dict):
        reference = node.get("$ref")
        own = {reference.removeprefix(_PREFIX)} if isinstance(reference, str) and reference.startswith(_PREFIX) else set()
        return own.union(*map(_references, node.values()))
    return set().union(*map(_references, node)) if isinstance(node, list) else set()


def _hook(cls: type) -> dict[str, Any]:
    """Types that msgspec does not know."""
    if cls is Secret:
        return {"type": "string", "writeOnly": True}
    if types.is_pydantic(cls):
        return {"title": cls.__name__, "type": "object"}
    raise NotImplementedError
