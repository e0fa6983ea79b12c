"""Leads Envoy from one set of files to the next so that no request meets a route without its cluster.

Clusters are made before routes use them and taken away only after no route does. Envoy is asked for its opinion of the
whole before anything is written (`validation`), and confirms every step before the next; what it rejects all the same is
replaced by what was there before, so that a change counts whole or not at all, and an Envoy that starts finds the last good.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from atoll.errors import Bug, EngineOutage
from atoll.gateway import validation
from atoll.gateway.admin import Admin, Seen
from atoll.gateway.files import body, replace_file, version, write
from atoll.gateway.proof import Proof
from atoll.gateway.validation import Question
from atoll.gateway.watched import Watched, unwatched
from atoll.gateway.xds.folders import BINARY, TYPES, Folders
from atoll.gateway.xds.typed import Json

__all__ = ["Applier", "steps"]

logger = logging.getLogger("atoll.gateway")

_CONFIRM_S = 30.0
# A directory that was replaced is one that Envoy does not watch, unless it has started again since.
_BLIND_S = 2.0
_SILENT = "Envoy does not answer at its admin port"
_LOGGED = "its log says why"

Files = Mapping[str, bytes]


def steps(old: Files, new: Mapping[str, list[Json]], wanted: Files) -> Iterator[tuple[str, bytes]]:
    """What to write, in which order, to get from `old` contents to `new` resources, whose contents are `wanted`."""
    both = sorted([*new["cds"], *_leaving(old.get("cds", b""), new["cds"])], key=lambda cluster: str(cluster["name"]))
    filters = [(kind, wanted[kind]) for kind in ("ecds", "revocations")]
    order = [*filters, ("cds", body("cds", both)), ("rds", wanted["rds"]), ("cds", wanted["cds"])]
    current = dict(old)
    for kind, content in [*order, ("lds", wanted["lds"])]:
        if current.get(kind) != content:
            current[kind] = content
            yield kind, content


def _leaving(old: bytes, new: list[Json]) -> list[Json]:
    """The clusters that are in the old file alone."""
    kept = {cluster["name"] for cluster in new}
    return [cluster for cluster in _resources(old) if cluster["name"] not in kept]


def _resources(content: bytes) -> list[Json]:
    """Those in a file; none in one that is not there."""
    return list(msgspec.json.decode(content)["resources"]) if content else []


class Applier:
    """Writes and confirms. `good` is what Envoy is known to use, by type; `meant` is what was written last, confirmed or not.

    What is on disk when it begins is meant, and good as far as Envoy says that it uses it.
    """

    def __init__(self, folders: Folders, admin: Admin, confirm_s: float = _CONFIRM_S) -> None:
        self.folders = folders
        self._admin = admin
        self._confirm_s = confirm_s
        self.good: dict[str, bytes] = {}
        self.meant: dict[str, bytes] = _on_disk(folders)
        # What needs no further opinion: Envoy uses it, or was asked.
        self._passed: dict[str, bytes] = {}
        # What was applied last, as contents and as resources: with hundreds of services, reading it again is work.
        self._last: dict[str, tuple[bytes, list[Json]]] = {}
        self._marks: dict[str, tuple[int, int, int, str]] = {}
        self._watched = Watched(folders, admin)
        self._proof = Proof(folders, admin, self._watched)

    async def apply(self, resources: Mapping[str, list[Json]]) -> None:
        """Returns when Envoy uses all of it. Raises Bug when it refuses something (then nothing has changed), and
        EngineOutage while it does not answer; then all files are written, for the Envoy that starts next. OSError: a part is.
        """
        seen = await self._recognize()
        wanted, reason = await self._judged(resources)
        if reason:
            raise Bug(f"Envoy refuses this change: {reason}", hint="nothing of it was written, the last good state is kept")
        if seen is None:
            self._write_all(wanted.items())
            raise EngineOutage(_SILENT)
        try:
            await self._lead(self._pending(resources, wanted), seen)
        except Bug as refusal:
            raise Bug(f"{refusal.detail}: {await _of_all(resources) or _LOGGED}", hint=refusal.hint) from None
        self._last = {kind: (wanted[kind], resources[kind]) for kind in TYPES}

    async def refusal(self, resources: Mapping[str, list[Json]]) -> str:
        """Why Envoy would not take them; "" when it would. Writes nothing."""
        _, reason = await self._judged(resources)
        return reason

    async def drifted(self) -> tuple[str, ...]:
        """What is not as it was left: files that somebody else wrote, types that Envoy has another version of, directories
        that it can't watch any more. (`diff` names resources and fields, for who asks.)

        While Envoy does not answer, only what the files say.
        """
        files = [f"{self._path(kind).name} was changed or removed" for kind in self.meant if not self._is_as_written(kind)]
        seen = await self._admin.look()
        versions = [
            f"Envoy uses another {kind}"
            for kind, content in self.meant.items()
            if seen and seen.versions[kind] != version(content)
        ]
        return (*files, *versions, *(f"the directory {kind} was replaced" for kind in await self._watched.lost()))

    async def heal(self) -> None:
        """Writes everything again, and waits until Envoy uses it. Raises like `apply`."""
        self.good.clear()
        seen = await self._admin.look()
        if seen is None:
            self._write_all(self.meant.items())
            raise EngineOutage(_SILENT)
        await self._write_in_steps([(kind, self.meant[kind]) for kind in TYPES if kind in self.meant], seen)
        if lost := await self._watched.lost():
            raise EngineOutage(unwatched(lost))

    def _is_as_written(self, kind: str) -> bool:
        """Read only when the file is not the one that was looked at last."""
        path = self._path(kind)
        try:
            status = path.stat()
            mark = (status.st_ino, status.st_mtime_ns, status.st_size, version(self.meant[kind]))
            if self._marks.get(kind) != mark and path.read_bytes() == self.meant[kind]:
                self._marks[kind] = mark
            return self._marks.get(kind) == mark
        except OSError:
            return False

    async def _recognize(self) -> Seen | None:
        """Asks what Envoy uses of what is meant: another Envoy may have begun with it. None when it does not answer."""
        seen = await self._admin.look()
        used = {kind: content for kind, content in self.meant.items() if seen and seen.versions[kind] == version(content)}
        if seen:
            self.good = used
            self._passed.update(used)
        return seen

    async def _judged(self, resources: Mapping[str, list[Json]]) -> tuple[Files, str]:
        """Their contents, and the reason against them, "" for none. What has passed once is not asked again."""
        if reason := validation.without_cluster(resources):
            return {}, reason
        try:
            wanted = self._contents(resources)
        except Bug as unknown:
            return {}, await _of_all(resources) or unknown.detail
        changed = [kind for kind in TYPES if self._passed.get(kind) != wanted[kind]]
        old = {kind: self._as_passed(kind) for kind in changed}
        question = validation.question(old, {kind: resources[kind] for kind in changed})
        if question is Question.NONE:
            return wanted, ""
        part = validation.part_to_check(old, resources)
        reason = await (self._of_routes(part) if question is Question.ROUTES else _of_all(part))
        if not reason:
            self._passed = dict(wanted)
        return wanted, reason

    def _contents(self, resources: Mapping[str, list[Json]]) -> dict[str, bytes]:
        """Not encoded again where they are equal; most parts are the very same objects, so that is quickly seen."""
        found = {}
        for kind in TYPES:
            content, last = self._last.get(kind, (b"", None))
            found[kind] = content if resources[kind] == last else body(kind, resources[kind])
        return found

    def _as_passed(self, kind: str) -> list[Json]:
        content, resources = self._last.get(kind, (b"", []))
        passed = self._passed.get(kind, b"")
        if content == passed:
            return resources
        # A table is written to be read by Envoy: once more it is asked about all of it.
        return [] if kind in BINARY else _resources(passed)

    async def _of_routes(self, part: Mapping[str, list[Json]]) -> str:
        """The reason against them, of the Envoy that runs. It says why in its log alone, so another one is asked for that."""
        taken = await self._proof.takes(part["rds"])
        if taken:
            return ""
        return await _of_all(part) or ("" if taken is None else f"the Envoy that runs refuses these routes, and {_LOGGED}")

    def _pending(self, resources: Mapping[str, list[Json]], wanted: Files) -> list[tuple[str, bytes]]:
        """The steps, and what is on disk but not in use yet. Everything when there is nothing: then it is confirmed anew."""
        pending = list(steps(self.meant, resources, wanted))
        kinds = {kind for kind, _ in pending}
        pending += [(kind, wanted[kind]) for kind in TYPES if kind not in kinds and self.good.get(kind) != wanted[kind]]
        return pending or list(wanted.items())

    async def _lead(self, pending: list[tuple[str, bytes]], seen: Seen) -> None:
        """Raises Bug after it has put back what was there before."""
        meant, good = dict(self.meant), dict(self.good)
        try:
            await self._write_in_steps(pending, seen)
        except Bug:
            # What was meant before may be what is refused, when nobody could say so earlier.
            another = any(meant.get(kind) != content for kind, content in pending)
            self._restore(meant if another else good, [kind for kind, _ in pending])
            raise

    async def _write_in_steps(self, pending: list[tuple[str, bytes]], seen: Seen) -> None:
        for at, (kind, content) in enumerate(pending):
            self._write(kind, content)
            try:
                seen = await self._confirmed(kind, content, seen)
            except EngineOutage:
                self._write_all(pending[at + 1 :])
                raise
            self.good[kind] = self._passed[kind] = content

    async def _confirmed(self, kind: str, content: bytes, before: Seen) -> Seen:
        wanted = version(content)
        blind = kind in await self._watched.lost()
        async for seen in self._admin.looks(min(_BLIND_S, self._confirm_s) if blind else self._confirm_s):
            if seen is None:
                raise EngineOutage(_SILENT)
            if seen.versions[kind] == wanted and not seen.warming:
                return seen
            if seen.refused[kind] > before.refused[kind]:
                raise Bug(f"Envoy rejected {kind} {wanted}", hint="the last good state is kept")
        late = f"Envoy has not taken over {kind} {wanted} within {self._confirm_s} s"
        raise EngineOutage(unwatched([kind]) if blind else late)

    def _restore(self, last: Files, kinds: list[str]) -> None:
        """The last step first, so that no route is without its cluster on the way back either."""
        for kind in reversed(kinds):
            if kind in last:
                self._write(kind, last[kind])
        # Envoy has not said so yet.
        self.good = {kind: content for kind, content in self.good.items() if kind not in kinds}

    def _path(self, kind: str) -> Path:
        return Path(self.folders.file(kind))

    def _write(self, kind: str, content: bytes) -> None:
        """Also what is there already when Envoy does not use it: a rename wakes it."""
        path = self._path(kind)
        if not write(path, content) and self.good.get(kind) != content:
            replace_file(path, content)
        self.meant[kind] = content

    def _write_all(self, pending: Iterable[tuple[str, bytes]]) -> None:
        """For the Envoy that starts next."""
        for kind, content in pending:
            write(self._path(kind), content)
            self.meant[kind] = content


async def _of_all(resources: Mapping[str, list[Json]]) -> str:
    """A starting Envoy's reason against them; "" also where there is none to ask."""
    try:
        return await validation.check(resources)
    except EngineOutage as outage:
        logger.debug("Envoy is not here to validate with (%s): it refuses what it can't use itself", outage)
        return ""


def _on_disk(folders: Folders) -> dict[str, bytes]:
    found = {}
    for kind in TYPES:
        try:
            found[kind] = Path(folders.file(kind)).read_bytes()
        except OSError:
            continue
    return found
