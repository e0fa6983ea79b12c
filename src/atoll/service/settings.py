"""A service's settings: one frozen struct of its own, filled from the manifest, `.env` and the environment, read once.

    class PaymentSettings(Settings):
        provider_url: str
        provider_key: Secret
        timeout_s: float = 2.0

A value is looked up as `provider_url` in the manifest, and as `PROVIDER_URL` in the service's `.env` and in the
environment; the later one wins. PROVIDER_URL_FILE names a file that has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import msgspec
from msgspec import StructMeta

from atoll.errors import SystemMistake
from atoll.service import annotations as types
from atoll.system.variables import in_file

__all__ = ["Secret", "Settings", "Sources", "load", "parse_dotenv"]

S = TypeVar("S", bound="Settings")


class Secret:
    """A text that prints as `***`. `reveal()` gives it, at the one place where it is used."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(("Secret", self._text))

    def __bool__(self) -> bool:
        return bool(self._text)


class SettingsMeta(StructMeta):
    """Every subclass is frozen, and its fields may stand in any order."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **config: Any) -> SettingsMeta:
        return super().__new__(mcls, name, bases, namespace, **{**config, "frozen": True, "kw_only": True})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Settings(msgspec.Struct, metaclass=SettingsMeta, frozen=True, kw_only=True):
    """Base of a service's settings. Ask for the subclass in a handler, provider or hook."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where values come from, weakest first."""

    manifest: Mapping[str, Any] = field(default_factory=dict)
    dotenv: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Mapping[str, Any], folder: Path | None, environ: Mapping[str, str]) -> Sources:
        """Reads `.env` in `folder` if there is one. Raises SystemMistake with its line."""
        file = folder / ".env" if folder else None
        values = parse_dotenv(file.read_text(), str(file)) if file and file.is_file() else {}
        return cls(manifest, values, environ)

    def find(self, name: str) -> tuple[Any, str]:
        """The value and where it stood; (UNSET, "") when nowhere."""
        upper = name.upper()
        if upper in self.environ:
            return self.environ[upper], f"environment variable {upper}"
        if f"{upper}_FILE" in self.environ:
            return in_file(upper, self.environ), f"the file {self.environ[f'{upper}_FILE']}"
        if upper in self.dotenv:
            return self.dotenv[upper], f".env, {upper}"
        if name in self.manifest:
            return self.manifest[name], f"atoll.toml, settings.{name}"
        return msgspec.UNSET, ""


def load(classes: Iterable[type[Settings]], sources: Sources) -> dict[type[Settings], Settings]:
    """An instance of each. Raises one SystemMistake that names every value that is missing or wrong."""
    loaded: dict[type[Settings], Settings] = {}
    faults: list[str] = []
    for cls in classes:
        values, wrong = _values(cls, sources)
        faults += wrong
        if not wrong:
            loaded[cls] = cls(**values)
    if faults:
        raise SystemMistake(
            "settings that can't be used:\n    " + "\n    ".join(faults),
            hint="[services.NAME.settings] in atoll.toml for plain values, the environment for secrets",
        )
    return loaded


def _values(cls: type[Settings], sources: Sources) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    faults: list[str] = []
    for one in msgspec.structs.fields(cls):
        raw, place = sources.find(one.name)
        if raw is msgspec.UNSET:
            if one.required:
                faults.append(f"{one.name}: is missing ({cls.__name__}; set {one.name.upper()})")
            continue
        try:
            values[one.name] = _convert(raw, one.type)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            shown = "***" if types.bare(one.type) is Secret else repr(raw)
            faults.append(f"{one.name}: {error}, not {shown} ({place})")
    return values, faults


def _convert(raw: Any, annotation: Any) -> Any:
    """Text becomes what the annotation says; lists and structs are JSON when they come as text."""
    if isinstance(raw, str) and not types.is_scalar(annotation) and types.is_bodylike(annotation):
        raw = msgspec.json.decode(raw)
    return msgspec.convert(raw, annotation, strict=False, dec_hook=_secret)


def _secret(cls: type, raw: Any) -> Any:
    if cls is Secret and isinstance(raw, str):
        return Secret(raw)
    raise TypeError(f"Expected `str`, got `{type(raw).__name__}`")


def parse_dotenv(text: str, where: str = ".env") -> dict[str, str]:
    """`NAME=value` lines; quotes may surround a value; `#` begins a comment. Raises SystemMistake with the line."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip().removeprefix("export ").lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise SystemMistake("this is not NAME=value", where=f"{where}:{number}")
        found[name] = _unquote(value.strip())
    return found


def _unquote(value: str) -> str:
    if value[:1] in ("'", '"') and value.find(value[0], 1) > 0:
        quote = value[0]
        inner = value[1 : value.index(quote, 1)]
        return inner.replace("\\n", "\n") if quote == '"' else inner
    return value.split(" #", 1)[0].rstrip()
