"""Leads Envoy from one set of files to the next so that no request meets a route without its cluster.

Clusters are made before routes use them and taken away only after no route does. Envoy is asked for its opinion of the
whole before anything is written (`validation`), and confirms every step before the next; what it rejects all the same is
replaced by what was there before, so that a change counts whole or not at all, and an Envoy that starts finds the last good.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from atoll.errors import Bug, EngineOutage
from atoll.gateway import validation
from atoll.gateway.admin import Admin, Seen
from atoll.gateway.files import body, replace_file, version, write
from atoll.gateway.xds.folders import TYPES, Folders
from atoll.gateway.xds.typed import Json

__all__ = ["Applier", "steps"]

logger = logging.getLogger("atoll.gateway")

_POLL_S = 0.003
_CONFIRM_S = 30.0

Files = Mapping[str, bytes]


def steps(old: Files, new: Mapping[str, list[Json]]) -> Iterator[tuple[str, bytes]]:
    """What to write, in which order, to get from `old` contents to `new` resources."""
    wanted = {kind: body(new[kind]) for kind in TYPES}
    both = sorted([*new["cds"], *_leaving(old.get("cds", b""), new["cds"])], key=lambda cluster: str(cluster["name"]))
    filters = [(kind, wanted[kind]) for kind in ("ecds", "revocations")]
    order = [*filters, ("cds", body(both)), ("rds", wanted["rds"]), ("cds", wanted["cds"])]
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
    """Writes and confirms. `good` is what Envoy is known to have taken, by type."""

    def __init__(self, folders: Folders, admin: Admin, confirm_s: float = _CONFIRM_S) -> None:
        self._folders = folders
        self._admin = admin
        self._confirm_s = confirm_s
        self.good: dict[str, bytes] = _on_disk(folders)
        self._marks: dict[str, tuple[int, int, int, str]] = {}

    async def apply(self, resources: Mapping[str, list[Json]]) -> None:
        """Returns when Envoy uses all of it. Raises Bug when it refuses something (then nothing has changed), and
        EngineOutage while it does not answer; then all files are written, for the Envoy that starts next.
        """
        pending = list(steps(self.good, resources)) or [(kind, self.good[kind]) for kind in TYPES]
        await self._validate(resources, {kind for kind, _ in pending})
        before = dict(self.good)
        try:
            await self._write_in_steps(pending)
        except Bug:
            self._restore(before, [kind for kind, _ in pending])
            raise

    async def drifted(self) -> tuple[str, ...]:
        """What is no longer as it was confirmed: files that somebody else wrote, types that Envoy has another version of.
        (`diff` names resources and fields, for who asks.)

        Empty also while Envoy does not answer.
        """
        files = [f"{kind}.json was changed or removed" for kind in self.good if not self._is_as_written(kind)]
        seen = await self._admin.look()
        versions = [
            f"Envoy uses another {kind}"
            for kind, content in self.good.items()
            if seen and seen.versions[kind] != version(content)
        ]
        return (*files, *versions)

    async def heal(self) -> None:
        """Writes everything again, and waits until Envoy uses it. Raises like `apply`."""
        for kind in TYPES:
            replace_file(Path(self._folders.file(kind)), self.good[kind])
        await self._write_in_steps(list(self.good.items()))

    def _is_as_written(self, kind: str) -> bool:
        """Read only when the file is not the one that was looked at last."""
        path = Path(self._folders.file(kind))
        try:
            status = path.stat()
            mark = (status.st_ino, status.st_mtime_ns, status.st_size, version(self.good[kind]))
            if self._marks.get(kind) != mark and path.read_bytes() == self.good[kind]:
                self._marks[kind] = mark
            return self._marks.get(kind) == mark
        except OSError:
            return False

    async def _validate(self, resources: Mapping[str, list[Json]], changed: set[str]) -> None:
        """Raises Bug with Envoy's reason."""
        old = {kind: _resources(self.good.get(kind, b"")) for kind in changed}
        if not validation.questionable(old, {kind: resources[kind] for kind in changed}):
            return
        try:
            reason = await validation.check(validation.part_to_check(old, resources))
        except EngineOutage as outage:
            logger.debug("Envoy is not here to validate with (%s): it refuses what it can't use itself", outage)
            return
        if reason:
            raise Bug(f"Envoy refuses this change: {reason}", hint="nothing of it was written, the last good state is kept")

    async def _write_in_steps(self, pending: list[tuple[str, bytes]]) -> None:
        seen = await self._admin.look()
        for at, (kind, content) in enumerate(pending):
            if seen is None:
                self._write_all(pending[at:])
                raise EngineOutage("Envoy does not answer at its admin port")
            self._write(kind, content)
            seen = await self._confirmed(kind, content, seen)
            if seen:
                self.good[kind] = content
        if seen is None:
            raise EngineOutage("Envoy does not answer at its admin port")

    async def _confirmed(self, kind: str, content: bytes, before: Seen) -> Seen | None:
        """None when Envoy is gone."""
        wanted = version(content)
        clock = asyncio.get_running_loop().time
        asked, end = clock(), clock() + self._confirm_s
        while (seen := await self._admin.look()) is not None:
            if seen.versions[kind] == wanted and not seen.warming:
                return seen
            if seen.refused[kind] > before.refused[kind]:
                raise Bug(f"Envoy rejected {kind} {wanted}: its log says why", hint="the last good state is kept")
            if clock() > end:
                raise EngineOutage(f"Envoy has not taken over {kind} {wanted} within {self._confirm_s} s")
            # The same thread answers and takes over: with hundreds of services an answer is work too.
            await asyncio.sleep(max(_POLL_S, clock() - asked))
            asked = clock()
        return None

    def _restore(self, before: dict[str, bytes], kinds: list[str]) -> None:
        """The last step first, so that no route is without its cluster on the way back either."""
        for kind in reversed(kinds):
            if kind in before:
                self._write(kind, before[kind])
        self.good = before

    def _write(self, kind: str, content: bytes) -> None:
        write(Path(self._folders.file(kind)), content)

    def _write_all(self, pending: list[tuple[str, bytes]]) -> None:
        for kind, content in pending:
            self._write(kind, content)


def _on_disk(folders: Folders) -> dict[str, bytes]:
    found = {}
    for kind in TYPES:
        try:
            found[kind] = Path(folders.file(kind)).read_bytes()
        except OSError:
            continue
    return found
