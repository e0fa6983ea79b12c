"""Whether what was put into the outbox has reached the bus, from where everybody takes it within milliseconds."""

from __future__ import annotations

import asyncio

from atoll.database.ports import Database

__all__ = ["acknowledged", "until_acknowledged"]

_ROWS = 256
_LOOK_EVERY_S = 0.01
_LOOKS = 100


async def acknowledged(database: Database, subjects: str) -> bool:
    """Whether no row of these subjects (a prefix) waits. False too where so many rows wait that one could be among the rest."""
    waiting = await database.journal.outbox(_ROWS)
    return len(waiting) < _ROWS and not any(row.subject.startswith(subjects) for row in waiting)


async def until_acknowledged(database: Database, subjects: str) -> bool:
    """The same, after waiting a moment for it: False means that the bus can't be reached or is busy, not that it is lost."""
    for _ in range(_LOOKS):
        if await acknowledged(database, subjects):
            return True
        await asyncio.sleep(_LOOK_EVERY_S)
    return False
