"""OpenAPI path templates: their shape, their order, and the regular expression that matches them.

`/orders/{id}`: a parameter is one non-empty segment. A last segment `{rest:path}` (or `{+rest}`, RFC 6570) is the rest of
the path, slashes included. Two templates that differ in parameter names only are the same path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

__all__ = ["Path", "parameters"]

_PARAMETER = re.compile(r"\{([^{}]+)\}")
_LITERAL, _MIXED, _PARAMETERS, _REST = range(4)
# One character of a template, or one that stands in escaped form.
_CHARACTER = re.compile(r"%([0-9A-Fa-f]{2})|(.)", re.DOTALL)
# What has one spelling: Envoy unescapes these before a path is matched (RFC 3986 §2.3), and refuses an escaped slash.
_PLAIN = re.compile(r"[A-Za-z0-9/._~-]*")
# What may stand in a path as it is. Of the rest, `?` and `#` end it, a backslash becomes a slash, and % begins an escape.
_UNESCAPED = frozenset(":@!$&'()*+,;=[]|^`{}\"<>")


@dataclass(frozen=True, slots=True)
class Path:
    """One template. `shape` is the same for templates that match the same paths."""

    template: str

    @property
    def shape(self) -> str:
        return _regex(self.template)

    @property
    def literal(self) -> str | None:
        """The path itself when it can stand in a request line in this one way only: no parameter, nothing to escape."""
        return self.template if _PLAIN.fullmatch(self.template) else None

    @property
    def regex(self) -> str:
        """RE2, for the whole path without its query. What may be escaped matches in either spelling, as services take it."""
        return _regex(self.template)

    @property
    def precedence(self) -> tuple[tuple[int, str], ...]:
        """Sorts the most specific first: segment by segment, text before text with a parameter, before a parameter."""
        return _precedence(self.template)

    def under(self, prefix: str) -> bool:
        """Whether `prefix` (whole segments) begins this path."""
        return prefix == "/" or self.template == prefix or self.template.startswith(prefix.rstrip("/") + "/")

    def matches(self, path: str) -> bool:
        """Whether a request for `path`, without its query, is one for this template."""
        return path == self.literal if self.literal is not None else re.fullmatch(self.regex, path) is not None

    def is_open(self, depth: int) -> bool:
        """Whether one of the first `depth` segments has a parameter."""
        return any("{" in segment for segment in self.template.split("/", depth + 1)[1 : depth + 1])

    def reaches_into(self, prefix: str) -> bool:
        """Whether it matches paths below `prefix` although it is not written below it: `/{page}` and `/orders`."""
        if self.under(prefix):
            return False
        mine, theirs = self.template.split("/")[1:], prefix.split("/")[1:]
        for at, literal in enumerate(theirs):
            if at == len(mine):
                return False
            if _kind(mine[at]) == _REST:
                return True
            if not re.fullmatch(Path(mine[at]).regex, literal):
                return False
        return True

    @property
    def has_rest(self) -> bool:
        """Whether a parameter takes several segments."""
        return "{" in self.template and _has_rest(self.template)

    def meets(self, other: Path) -> bool:
        """Whether one request may be for both. False is certain."""
        if "{" not in self.template and "{" not in other.template:
            return self.shape == other.shape
        mine, theirs = _segments(self.template), _segments(other.template)
        for one, another in zip(mine, theirs, strict=False):
            if "{" not in one and "{" not in another:
                if one != another and _regex(one) != _regex(another):
                    return False
            elif _has_rest(one) or _has_rest(another):
                return True
        return len(mine) == len(theirs)

    def __str__(self) -> str:
        return self.template


def parameters(template: str) -> list[str]:
    """The names of a template's parameters, in order, as OpenAPI has them."""
    return [name.removeprefix("+").removesuffix(":path") for name in _PARAMETER.findall(template)]


# Asked for several times for every path, and again at every change.
@lru_cache(maxsize=65_536)
def _regex(template: str) -> str:
    pieces, end = [], 0
    for found in _PARAMETER.finditer(template):
        pieces += [_spelt(template[end : found.start()]), ".*" if _is_rest(found[1]) else "[^/]+"]
        end = found.end()
    return "".join([*pieces, _spelt(template[end:])])


@lru_cache(maxsize=65_536)
def _has_rest(text: str) -> bool:
    return any(_is_rest(parameter) for parameter in _PARAMETER.findall(text))


@lru_cache(maxsize=65_536)
def _precedence(template: str) -> tuple[tuple[int, str], ...]:
    return tuple((_kind(segment), unquote(_PARAMETER.sub("{}", segment))) for segment in _segments(template)[1:])


@lru_cache(maxsize=65_536)
def _segments(template: str) -> tuple[str, ...]:
    return tuple(template.split("/"))


def _is_rest(parameter: str) -> bool:
    return parameter.startswith("+") or parameter.endswith(":path")


def _spelt(text: str) -> str:
    return _CHARACTER.sub(lambda found: _spellings(found[2] or chr(int(found[1], 16)), found[0]), text)


def _spellings(character: str, written: str) -> str:
    """`:` is `:`, `%3A` or `%3a`. What Envoy would unescape, but is written escaped, never arrives like that."""
    if _PLAIN.fullmatch(character) or character == "\\":
        return re.escape(written)
    octets = [int(written[1:], 16)] if len(written) == 3 else character.encode()
    escaped = "".join(f"%{_either_case(f'{octet:02X}')}" for octet in octets)
    return f"(?:{re.escape(character)}|{escaped})" if character in _UNESCAPED else escaped


def _either_case(digits: str) -> str:
    return "".join(one if one.isdigit() else f"[{one}{one.lower()}]" for one in digits)


def _kind(segment: str) -> int:
    whole = _PARAMETER.fullmatch(segment)
    if whole:
        return _REST if _is_rest(whole[1]) else _PARAMETERS
    return _MIXED if _PARAMETER.search(segment) else _LITERAL
