"""Which entry of the route table a request meets, by the rules that `xds.routes` renders. Pure: nothing is asked.

`tests/e2e/test_explain_agrees.py` holds it to the answers of a real Envoy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from atoll.gateway.ir import Border, Document, Entry, Gateway, MethodList, MethodRefusal, Route
from atoll.gateway.paths import Path

__all__ = ["NOT_FOUND", "Fallback", "Match", "NotFound", "matched", "normalized"]

_ESCAPED = re.compile(r"%([0-9A-Fa-f]{2})")
_SLASHES = re.compile(r"/{2,}")
# `/..;x/` is a parent too, as servlets take it.
_DOTS = re.compile(r"(?<=[/\\])(\.{1,2});[^/\\]*")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
# What a path may hold as it is; everything else Envoy writes in escaped form.
_SAFE = "/%:@!$&'()*+,;=~-._[]|^`{}\"<>\\"
_READ_ONLY = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Fallback:
    """The program that has every path that no service owns."""

    cluster: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """404; `owned` is the prefix of a service, which keeps the path from the fallback."""

    owned: str = ""


NOT_FOUND = NotFound()

Match = Route | MethodList | MethodRefusal | Document | Fallback | NotFound


def normalized(path: str) -> str | None:
    """The one spelling under which a path is matched, its query left out. None: refused with 400 as no valid request."""
    path = path.partition("?")[0]
    if not path.startswith("/") or "#" in path or not path.isprintable():
        return None
    if any(escaped.upper() in ("2F", "5C", "00") for escaped in _ESCAPED.findall(path)):
        return None
    plain = _ESCAPED.sub(_unescaped, _DOTS.sub(r"\1", path)).replace("\\", "/")
    spelled = _without_dots(quote(plain, safe=_SAFE))
    return "//" if set(spelled) == {"/"} and len(spelled) > 1 else _SLASHES.sub("/", spelled)  # Envoy leaves `//` alone


def _unescaped(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if _UNRESERVED.match(character) else found[0]


def _without_dots(path: str) -> str:
    """RFC 3986 §5.2.4. Before slashes are merged, so that `/a//../b` is `/a/b`."""
    kept: list[str] = []
    *segments, last = path.split("/")[1:]
    for segment in [*segments, last, *([""] if last in (".", "..") else [])]:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


def matched(gateway: Gateway, method: str, path: str) -> Match:
    """What a request for `path`, which is normalized, meets."""
    for document in gateway.documents:
        if Path(document.path).matches(path):
            return _of_document(document, method)
    for entry in gateway.routes:
        if (found := _met(entry, method, path)) is not None:
            return found
    return _unowned(gateway, path)


def _of_document(document: Document, method: str) -> Match:
    if method in _READ_ONLY:
        return document
    kind = MethodList if method == "OPTIONS" else MethodRefusal
    return kind(Path(document.path), (*_READ_ONLY, "OPTIONS"))


def _met(entry: Entry, method: str, path: str) -> Match | None:
    """What the request is without further headers: no preflight, and no Idempotency-Key."""
    match entry:
        case Border(prefix):
            return NotFound(prefix) if Path(path).under(prefix) else None
        case Route(header=None, methods=methods) if method not in methods:
            return None
        case Route(header=str()) | MethodList(preflight=True):
            return None
        case MethodList() if method != "OPTIONS":
            return None
    return entry if entry.path.matches(path) else None


def _unowned(gateway: Gateway, path: str) -> Fallback | NotFound:
    for prefix in gateway.owned:
        if Path(path).under(prefix):
            return NotFound(prefix)
    return Fallback(gateway.fallback) if gateway.fallback else NOT_FOUND
