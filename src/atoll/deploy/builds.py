"""`atoll build`: makes the images that are not there yet, each from a context of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.deploy import wheels
from atoll.deploy.docker import Docker
from atoll.deploy.files import link_wheels, write_context
from atoll.deploy.images import Image, Sources, context, images, reference
from atoll.deploy.plan import Plan
from atoll.deploy.reproducible import MAKER, Rewriter
from atoll.deploy.sbom import Contents, document
from atoll.errors import SystemMistake

__all__ = ["EPOCH", "Builder"]

EPOCH = 315_532_800
"""1980-01-01: the oldest moment that every archive can hold; SOURCE_DATE_EPOCH names another."""


@dataclass(frozen=True, slots=True)
class Builder:
    """`folder` is where contexts and wheels are kept (`.atoll/images`), `epoch` the moment that images get."""

    docker: Docker
    plan: Plan
    sources: Sources
    folder: Path
    epoch: int = EPOCH

    def build(self, names: Sequence[str], say: Callable[[str], None]) -> dict[str, str]:
        """Those images, or all. Gives references by name. Raises SystemMistake, EngineOutage; what is built stays."""
        found = images(self.plan, self.sources)
        if unknown := [name for name in names if name not in found]:
            raise SystemMistake(f"there is no image {', '.join(unknown)}", hint=f"images: {', '.join(found)}")
        chosen = {name: image for name, image in found.items() if not names or name in names}
        references = {name: reference(image, self.plan, self.sources) for name, image in chosen.items()}
        base = self.docker.base(self.plan.system.containers.base)
        missing = {name: tag for name, tag in references.items() if not self._stands(tag, base)}
        for name in references.keys() - missing.keys():
            say(f"{references[name]} is there")
        if missing:
            self._make({name: chosen[name] for name in missing}, missing, say)
        return references

    def references(self) -> dict[str, str]:
        """Of all images of the system, by part."""
        found = images(self.plan, self.sources)
        return {name: reference(image, self.plan, self.sources) for name, image in found.items()}

    def _stands(self, tag: str, base: list[str]) -> bool:
        """Whether that image is there, on this very base, and finished: an interrupted build leaves what the engine made."""
        layers = self.docker.layers(tag)
        return layers is not None and layers[: len(base)] == base and self.docker.makers(tag) == {MAKER}

    def _make(self, chosen: Mapping[str, Image], tags: Mapping[str, str], say: Callable[[str], None]) -> None:
        base = self.plan.system.containers.base
        target = self.docker.target(base)
        target.check()
        packages = self.docker.packages(base)
        for name, image in chosen.items():
            say(f"{tags[name]} is built")
            self._context(self.folder / name, image, target, packages)
            self.docker.build(self.folder / name, tags[name])
        self._rewrite(list(dict.fromkeys(tags.values())))

    def _context(self, folder: Path, image: Image, target: wheels.Target, packages: list[str]) -> None:
        write_context(folder, context(image, self.plan, self.sources))
        store = self.folder / "wheels"
        locks = [image.lock, *([image.beside.lock] if image.beside and image.beside.lock else [])]
        fetched = [wheels.fetch(lock, target, store) for lock in locks]
        for one in (*fetched, wheels.fetch(self.sources.locks["pip"], target, store)):
            link_wheels(one, folder / "wheels")
        held = {name: digest for one in fetched for name, digest in wheels.digests(one).items()}
        contents = Contents(held, packages, self.epoch, self.sources.version)
        (folder / "sbom.json").write_bytes(document(image, contents))

    def _rewrite(self, tags: list[str]) -> None:
        base = self.docker.base(self.plan.system.containers.base)
        with tempfile.TemporaryDirectory(prefix="atoll-images-", dir=self.folder) as place:
            saved, rewritten = Path(place, "saved.tar"), Path(place, "rewritten.tar")
            before = {one["Id"] for one in self.docker.inspect("image", *tags)}
            self.docker.save(tags, saved)
            Rewriter(len(base), self.epoch).rewrite(saved, rewritten)
            saved.unlink()
            self.docker.load(rewritten)
        after = {one["Id"] for one in self.docker.inspect("image", *tags)}
        self.docker.forget(before - after)
