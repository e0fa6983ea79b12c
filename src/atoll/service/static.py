"""Static files of a service: those that lie in its folder when it is first asked for one, and no others.

A name is looked up among the files that were found, never on the disk, so no path leads out of the folder, and a folder is
never listed. With its digest in its name (`Files.url`) a file may be kept for ever; without, a browser asks whether it has
changed. The digest is of the content, so that all replicas say the same.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from atoll.errors import NotFound, SystemMistake

__all__ = ["Files"]

_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_EACH_TIME = "public, no-cache"
_DIGITS = 12
_NAMED = re.compile(rf"^(?P<stem>.+)\.(?P<digest>[0-9a-f]{{{_DIGITS}}})(?P<suffix>\.[^./]+)?$")


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    digest: str
    media_type: str


class Files:
    """The files of `folder`, answered below `prefix`. Raises SystemMistake when there is no such folder."""

    def __init__(self, prefix: str, folder: Path, where: str) -> None:
        if not folder.is_dir():
            raise SystemMistake(f"{folder} is no folder", where=where, hint="its path is relative to the file that names it")
        self._prefix = prefix.rstrip("/")
        self._folder = folder

    def url(self, name: str) -> str:
        """Where `shop.css` is, with its digest: `/assets/shop.3f2a9c1b2d4e.css`. Raises SystemMistake when there is none."""
        found = self._found.get(name)
        if found is None:
            raise SystemMistake(f"there is no {name} in {self._folder}", hint=", ".join(sorted(self._found)[:8]))
        stem, suffix = (name[: -len(found.path.suffix)], found.path.suffix) if found.path.suffix else (name, "")
        return f"{self._prefix}/{stem}.{found.digest}{suffix}"

    async def answer(self, request: Request, file: str) -> Response:
        """A static file.

        304 where the browser has it, a part of it where that is asked for (RFC 9110 §14). Raises NotFound.
        """
        found, current = self._named(file)
        headers = {
            "etag": f'"{found.digest}"',
            "cache-control": _FOR_EVER if current else _ASK_EACH_TIME,
            "x-content-type-options": "nosniff",
        }
        if known := _known(request.headers.get("if-none-match", ""), headers["etag"]):
            return Response(status_code=304, headers={**headers, "etag": known})
        return FileResponse(found.path, headers=headers, media_type=found.media_type)

    def _named(self, file: str) -> tuple[_File, bool]:
        """The file, and whether its name holds the digest that it has: a page of another version may name another."""
        if (found := self._found.get(file)) is not None:
            return found, False
        parts = _NAMED.match(file)
        plain = parts["stem"] + (parts["suffix"] or "") if parts else ""
        if parts is None or (found := self._found.get(plain)) is None:
            raise NotFound(f"there is no {file[:200]} here")
        return found, parts["digest"] == found.digest

    @cached_property
    def _found(self) -> dict[str, _File]:
        root = self._folder.resolve()
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.resolve().is_relative_to(root)]
        visible = [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
        return {path.relative_to(root).as_posix(): _read(path) for path in visible}


def _read(path: Path) -> _File:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]
    return _File(path, digest, mimetypes.guess_type(path.name)[0] or "application/octet-stream")


def _known(condition: str, etag: str) -> str:
    """The tag under which the browser has it. Compared weakly: the gateway may have compressed it (RFC 9110 §13.1.2)."""
    tags = [one.strip() for one in condition.split(",")]
    if etag in tags or "*" in tags:
        return etag
    return f"W/{etag}" if f"W/{etag}" in tags else ""
