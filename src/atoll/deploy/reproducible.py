"""Makes an image that an engine built the same image wherever and whenever it was built.

A build writes its moment into every file it touches and into the configuration, with ids of its intermediate containers. What
`docker save` gives is written anew without those; layers of the base image stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Any

__all__ = ["MAKER", "Rewriter"]

MAKER = "atoll build"
"""What the history of such an image says, layer by layer."""
_KEPT = ("Env", "Cmd", "Entrypoint", "WorkingDir", "User", "Labels", "Healthcheck", "StopSignal", "ExposedPorts", "Volumes")
_CHUNK = 1 << 20
_XATTR = "SCHILY.xattr."


@dataclass
class Rewriter:
    """`base_layers` is how many layers of each image are the base's, `epoch` the moment (s) that everything gets."""

    base_layers: int
    epoch: int
    _written: set[str] = field(default_factory=set)
    _layers: dict[str, str] = field(default_factory=dict)

    def rewrite(self, saved: Path, into: Path) -> dict[str, str]:
        """Writes what `docker load` takes. Gives each image's id by its tag."""
        self._written.clear()
        self._layers.clear()
        with tarfile.open(saved) as source, tarfile.open(into, "w", format=tarfile.PAX_FORMAT) as target:
            manifest = _json(source, "manifest.json")
            entries = [self._image(source, target, entry) for entry in manifest]
            _add(target, "manifest.json", json.dumps(entries).encode())
        return {tag: f"sha256:{entry['Config'].removesuffix('.json')}" for entry in entries for tag in entry["RepoTags"]}

    def _image(self, source: tarfile.TarFile, target: tarfile.TarFile, entry: dict[str, Any]) -> dict[str, Any]:
        config = _json(source, entry["Config"])
        before = config["rootfs"]["diff_ids"]
        layers = [
            self._layer(source, target, (path, before[number], number < self.base_layers))
            for number, path in enumerate(entry["Layers"])
        ]
        text = json.dumps(self._config(config, layers), sort_keys=True).encode()
        name = f"{hashlib.sha256(text).hexdigest()}.json"
        if name not in self._written:
            self._written.add(name)
            _add(target, name, text)
        return {"Config": name, "RepoTags": entry["RepoTags"], "Layers": [f"{layer}.tar" for layer in layers]}

    def _layer(self, source: tarfile.TarFile, target: tarfile.TarFile, layer: tuple[str, str, bool]) -> str:
        """The digest of the layer as it is now."""
        path, diff_id, is_base = layer
        if diff_id not in self._layers:
            with _member(source, path) as old, tempfile.TemporaryFile() as new:
                if is_base:
                    _copy(old, new)
                else:
                    self._normalise(old, new)
                digest = self._layers[diff_id] = _digest(new)
                if digest not in self._written:
                    self._written.add(digest)
                    _add_file(target, f"{digest}.tar", new)
        return self._layers[diff_id]

    def _normalise(self, old: IO[bytes], new: IO[bytes]) -> None:
        with tarfile.open(fileobj=old) as source, tarfile.open(fileobj=new, mode="w", format=tarfile.PAX_FORMAT) as target:
            for member in source:
                member.mtime = self.epoch
                member.uname = member.gname = ""
                member.pax_headers = {key: value for key, value in member.pax_headers.items() if key.startswith(_XATTR)}
                target.addfile(member, source.extractfile(member) if member.isreg() else None)

    def _config(self, config: dict[str, Any], layers: list[str]) -> dict[str, Any]:
        moment = datetime.fromtimestamp(self.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "architecture": config["architecture"],
            "os": config["os"],
            "created": moment,
            "config": {key: config["config"][key] for key in _KEPT if config["config"].get(key)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}" for layer in layers]},
            "history": [{"created": moment, "created_by": MAKER} for _ in layers],
        }


@contextmanager
def _member(source: tarfile.TarFile, name: str) -> Iterator[IO[bytes]]:
    found = source.extractfile(name)
    assert found is not None
    with found:
        yield found


def _json(source: tarfile.TarFile, name: str) -> Any:
    with _member(source, name) as file:
        return json.load(file)


def _digest(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _copy(old: IO[bytes], new: IO[bytes]) -> None:
    while chunk := old.read(_CHUNK):
        new.write(chunk)


def _add(target: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    target.addfile(entry, BytesIO(content))


def _add_file(target: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = file.seek(0, 2)
    file.seek(0)
    target.addfile(entry, file)
