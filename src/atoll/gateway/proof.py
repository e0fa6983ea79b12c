"""What the Envoy that runs says of new routes, before the table in use is touched: it reads them into one that nobody meets."""

from __future__ import annotations

from pathlib import Path

from atoll.gateway.admin import Admin, Seen
from atoll.gateway.files import body, replace_file, version
from atoll.gateway.watched import Watched
from atoll.gateway.xds import proof
from atoll.gateway.xds.folders import PROOF, Folders
from atoll.gateway.xds.typed import Json

__all__ = ["Proof"]

# Keys that were withdrawn wait meanwhile. Whoever does not see the file is not told from whoever is slow.
_ANSWER_S = 10.0


class Proof:
    """Costs what reading the routes costs: no process is started, and most of them were read before."""

    def __init__(self, folders: Folders, admin: Admin, watched: Watched) -> None:
        self._path = Path(folders.file(PROOF))
        self._admin = admin
        self._watched = watched

    async def takes(self, tables: list[Json]) -> bool | None:
        """Whether Envoy would take them; None when it can't be asked. Raises OSError when nothing can be written."""
        before = await self._admin.look()
        if before is None or PROOF in await self._watched.lost():
            return None
        content = body(PROOF, proof.table(tables))
        replace_file(self._path, content)
        try:
            return await self._answer(version(content), before)
        finally:
            # Neither the memory of a table that was read nor what was refused stays for longer than the question.
            replace_file(self._path, body(PROOF, proof.nothing()))

    async def _answer(self, wanted: str, before: Seen) -> bool | None:
        async for seen in self._admin.looks(_ANSWER_S):
            if seen is None:
                break
            if seen.versions[PROOF] == wanted:
                return True
            if seen.refused[PROOF] > before.refused[PROOF]:
                return False
        return None
