"""The gateway's certificates: from the files where somebody else puts them to those that Envoy reads.

Only what is whole and fits together gets there. Anything else changes nothing and is told, so that a file that is being
copied, a key of another pair or an ended certificate never takes away one that works.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atoll.certificates.files import write_private
from atoll.certificates.watch import LOOK_S, Watch
from atoll.errors import EngineOutage, SystemMistake
from atoll.gateway.admin import Admin, Seen
from atoll.gateway.files import body, version
from atoll.gateway.xds import tls
from atoll.gateway.xds.folders import Folders
from atoll.gateway.xds.typed import Json

__all__ = ["Follower", "Origin", "Secret", "write_secrets"]

logger = logging.getLogger("atoll.gateway")

_POLL_S = 0.003
_CONFIRM_S = 5.0
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Secret:
    """A resource for Envoy, and what may be shown of it."""

    resource: Json = field(repr=False)
    shown: Mapping[str, Any]
    ends: datetime = _NEVER


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a secret comes from: a certificate and its key, or a file of authorities. `kind` is one of `folders.SECRETS`."""

    kind: str
    files: tuple[Path, ...]
    where: str = ""

    def read(self, now: datetime) -> Secret:
        """Raises SystemMistake that names the file and what is wrong with it."""
        from atoll.certificates.pair import Pair, read_authorities

        if len(self.files) == 1:
            chain = read_authorities(self.files[0], self.where).decode()
            return Secret(tls.authorities(self.kind, chain), {"file": str(self.files[0])})
        pair = Pair.read(self.files[0], self.files[1], now, self.where)
        shown = {"file": str(self.files[0]), "names": list(pair.names), "ends": pair.ends.isoformat(), "sha256": pair.digest}
        return Secret(tls.certificate(self.kind, pair.chain.decode(), pair.key.decode()), shown, pair.ends)


def write_secrets(folders: Folders, origins: Sequence[Origin]) -> None:
    """All of them, before anything that refers to them. Raises SystemMistake; then nothing was written."""
    found = [(origin.kind, body(origin.kind, [origin.read(datetime.now(UTC)).resource])) for origin in origins]
    for kind, content in found:
        _write(folders, kind, content)


class Follower:
    """Takes over what changes in the files of `origins`. `report` is told what is shown, and what is wrong."""

    def __init__(
        self,
        origins: Sequence[Origin],
        folders: Folders,
        admin: Admin,
        report: Callable[[Mapping[str, Any], Sequence[str]], None],
    ) -> None:
        self._watched = [(origin, Watch(origin.files)) for origin in origins]
        self._folders = folders
        self._admin = admin
        self._report = report
        self._shown: dict[str, Mapping[str, Any]] = {}
        self._ends: dict[str, datetime] = {}
        self._faults: dict[str, str] = {}
        self._told: tuple[Mapping[str, Any], Mapping[str, str]] = ({}, {})
        # What was written last, by kind: nobody but this follower writes there.
        self._good = {one.kind: content for one in origins if (content := _on_disk(folders, one.kind)) is not None}
        self._turn = asyncio.Lock()

    async def follow(self) -> None:
        """Until it is cancelled."""
        while self._watched:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Once; what changed is in use when this returns, or reported. What was wrong is tried again, for time passes."""
        now = datetime.now(UTC)
        async with self._turn:
            for origin, watch in self._watched:
                if watch.changed() or origin.kind in self._faults or now >= self._ends.get(origin.kind, _NEVER):
                    await self._take(origin, now)
        self._tell()

    async def drifted(self) -> tuple[str, ...]:
        """What is not as it was left: files that somebody else wrote, certificates that Envoy has another version of. Nothing
        while one is being replaced.
        """
        if self._turn.locked() or not self._good:
            return ()
        files = [f"{kind}.json was changed or removed" for kind in self._changed()]
        return (*files, *(f"Envoy uses another {kind}" for kind in await self._unused()))

    async def heal(self) -> None:
        """Writes them again, and waits until Envoy uses them. Raises EngineOutage when it does not."""
        async with self._turn:
            for kind in {*self._changed(), *await self._unused()}:
                _write(self._folders, kind, self._good[kind])
            end = asyncio.get_running_loop().time() + _CONFIRM_S
            while unused := await self._unused():
                if asyncio.get_running_loop().time() > end:
                    raise EngineOutage(f"Envoy does not use what was written of {', '.join(unused)}: its log says why")
                await asyncio.sleep(_POLL_S)

    def _changed(self) -> list[str]:
        return [kind for kind, good in self._good.items() if _on_disk(self._folders, kind) != good]

    async def _unused(self) -> list[str]:
        """Those that Envoy has another version of. One that no listener or cluster asks for has none."""
        seen = await self._admin.look()
        if seen is None:
            return []
        return [kind for kind, good in self._good.items() if seen.versions[kind] not in ("", version(good))]

    def _tell(self) -> None:
        """What is new. A report that can't be made is made at the next look."""
        now = (dict(self._shown), dict(self._faults))
        if now == self._told:
            return
        try:
            self._report(now[0], list(now[1].values()))
        except OSError as error:
            logger.warning("the state of the certificates could not be reported: %s", error)
        else:
            self._told = now

    async def _take(self, origin: Origin, now: datetime) -> None:
        try:
            secret = origin.read(now)
            if await self._write(origin.kind, body(origin.kind, [secret.resource])):
                logger.info("%s: %s is in use", origin.kind, origin.files[0])
        except (SystemMistake, OSError) as error:
            self._complain(origin.kind, f"{getattr(error, 'detail', error)}; the last good one stays in use")
            return
        self._shown[origin.kind] = secret.shown
        self._ends[origin.kind] = secret.ends
        self._faults.pop(origin.kind, None)

    def _complain(self, kind: str, fault: str) -> None:
        """Once for each fault, however often it is met."""
        if self._faults.get(kind) != fault:
            logger.warning("%s", fault)
        self._faults[kind] = fault

    async def _write(self, kind: str, content: bytes) -> bool:
        """Whether it is another than before. Raises SystemMistake when Envoy rejects it; the last good one is back then."""
        good = self._good.get(kind)
        if good == content:
            return False
        before = await self._admin.look()
        _write(self._folders, kind, content)
        if before is not None and await self._refused(kind, content, before):
            if good is not None:
                _write(self._folders, kind, good)
            raise SystemMistake(f"Envoy rejected the new {kind.replace('_', ' ')}: its log says why")
        self._good[kind] = content
        return True

    async def _refused(self, kind: str, content: bytes, before: Seen) -> bool:
        """False also when Envoy is gone or busy: it reads the file when it is back."""
        end = asyncio.get_running_loop().time() + _CONFIRM_S
        while (seen := await self._admin.look()) is not None and asyncio.get_running_loop().time() < end:
            if seen.versions[kind] == version(content):
                return False
            if seen.refused[kind] > before.refused[kind]:
                return True
            await asyncio.sleep(_POLL_S)
        return False


def _on_disk(folders: Folders, kind: str) -> bytes | None:
    with suppress(OSError):
        return Path(folders.file(kind)).read_bytes()
    return None


def _write(folders: Folders, kind: str, content: bytes) -> None:
    path = Path(folders.file(kind))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, content)
