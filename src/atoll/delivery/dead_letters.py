"""Dead letters: events that failed at their last attempt. They are rows in the service's own database."""

from __future__ import annotations

from msgspec.structs import replace

from atoll.database.ports import Database, Parked
from atoll.errors import NotFound

__all__ = ["discard", "retry"]


async def retry(database: Database, id: str, body: bytes | None = None) -> Parked:
    """Makes it due now, attempts counted anew, with another `body` if given. The consumer sees it within a second.

    Raises NotFound.
    """
    parked = await _found(database, id)
    due = replace(parked, state="waiting", attempts=0, due_at=0.0, body=parked.body if body is None else body)
    async with database.transaction() as tx:
        await database.journal.park(tx, due)
    return due


async def discard(database: Database, id: str) -> Parked:
    """Forgets it: its key goes on with the next event. Raises NotFound."""
    parked = await _found(database, id)
    async with database.transaction() as tx:
        await database.journal.unpark(tx, id)
    return parked


async def _found(database: Database, id: str) -> Parked:
    parked = await database.journal.parked_event(id)
    if parked is None:
        raise NotFound(f"no event {id} is parked here", hint="`atoll dead-letters list` shows what is")
    return parked
